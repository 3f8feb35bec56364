"""A GRU encoder-decoder with attention translates German captions of photographs into English.

Result    bleu greedy 37.924 with one seed, 18.5 minutes a run (13.7 of CPU) on 2 cores
Baseline  the English side of the training sentence whose German side is nearest by TF-IDF
Published 28.3 BLEU, greedy: GRU with additive attention, trained for 10 epochs (bentrevett, pytorch-seq2seq);
          on lower-cased spaCy tokens there, by sacrebleu on lower-cased detokenized text here (13a)
Paper     Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2014,
          https://arxiv.org/abs/1409.0473; the attention's queries come from a GRU of their own; a second GRU follows,
          as in Wu et al. 2016, https://arxiv.org/abs/1609.08144, so that training runs over all steps at once
Answers   What does each word attend to? How much does beam search add to greedy decoding? Dot product or additive?

    python -m recipes.seq2seq.translation
    python -m recipes.seq2seq.translation --set attention=additive --seed 1
"""

import functools

import keras
import numpy as np
import sacrebleu
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn.feature_extraction.text import TfidfVectorizer

from common.callbacks import OneCycle
from common.data import bucket
from common.datasets import multi30k
from common.decoding import beam_search, greedy
from common.metrics import Perplexity
from common.plots import heat_map, new
from common.text import byte_pair_tokenizer, shift_right

PROMISE = {
    "figure": {"metric": "bleu_greedy", "better": "higher"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"metric": "nearest_bleu", "name": "translation of the nearest training sentence"},
    "published": {"value": 28.3, "source": "bentrevett/pytorch-seq2seq, GRU with attention, greedy"},
    "data": ["multi30k"],
    "tolerance": 1.0,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 60, "epochs": 2, "units": 32, "vocabulary_size": 500}
VARIANTS = {"additive attention": {"attention": "additive"}}
PINNED = ("vocabulary_size",)  # Perplexity per token depends on it.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END = 1, 2  # 0 is padding, 3 a character that training never showed.
BUCKETS = [12, 14, 16, 18, 20, 23, 27, 33]  # The longer side's length, in tokens, at which a bucket begins.
LONGEST = 80  # Tokens that a translation may have.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 60, 29_000, default=29_000)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=7)
    hp.Int("batch_size", 16, 256, step=16, default=64)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=3_000)  # As fine as 6,000 shared by both.
    hp.Int("units", 32, 1024, step=32, default=256)
    hp.Choice("attention", ["dot", "additive"], default="dot")  # A step of additive attention takes a tenth longer.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.3)
    hp.Float("label_smoothing", 0.0, 0.3, step=0.05, default=0.1)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Teacher forcing: (source (B, S), target shifted right (B, T)) to logits (B, T, V)."""
    units, vocabulary_size = hp["units"], hp["vocabulary_size"]
    recurrent = {"return_sequences": True, "return_state": True}
    unit_scale = keras.initializers.RandomNormal(stddev=1.0)
    # The target's matrix is the softmax's too (Press and Wolf 2016): small for the logits, `rescaled` undoes it.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    source_embedding = layers.Embedding(vocabulary_size, units, unit_scale)
    target_embedding = layers.ReversibleEmbedding(vocabulary_size, units, embeddings_initializer=small)
    rescaled = layers.Rescaling(units**0.5)
    dropout = layers.Dropout(hp["dropout"])

    source = keras.Input((None,), dtype="int32", name="source")
    mask = ops.not_equal(source, 0)
    encoder = layers.Bidirectional(layers.GRU(units, **recurrent), name="encoder")
    outputs, *last_states = encoder(dropout(source_embedding(source)), mask=mask)  # (B, S, 2 units)
    memory = layers.Dense(units, name="memory")(outputs)
    state = layers.Dense(units, activation="tanh", name="state")(ops.concatenate(last_states, axis=-1))
    # The decoder's two initial states, each with a name: `translate` replaces them with later ones.
    query_state, answer_state = layers.Identity(name="query_state")(state), layers.Identity(name="answer_state")(state)

    shifted = keras.Input((None,), dtype="int32", name="shifted_target")
    query_layer = layers.GRU(units, **recurrent, name="query")
    query, _ = query_layer(dropout(rescaled(target_embedding(shifted))), initial_state=query_state)  # (B, T, units)
    attention = {"dot": layers.Attention, "additive": layers.AdditiveAttention}[hp["attention"]]
    attention = attention(use_scale=True, name="attention")
    context, _ = attention([query, memory], mask=[None, mask], return_attention_scores=True)  # scores (B, T, S)
    answer_layer = layers.GRU(units, **recurrent, name="answer")
    answer, _ = answer_layer(dropout(ops.concatenate([query, context], axis=-1)), initial_state=answer_state)
    output = layers.Dense(units, name="output")(ops.concatenate([answer, context], axis=-1))
    logits = target_embedding(dropout(output), reverse=True)
    model = keras.Model([source, shifted], logits, name="translation")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0),
        SmoothedCrossEntropy(hp["label_smoothing"]),
        weighted_metrics=[Perplexity()],
        jit_compile=False,
        steps_per_execution=8,
    )
    return model


class SmoothedCrossEntropy(keras.losses.Loss):
    """Label smoothing for labels (B, T) and logits (B, T, V), without the (B, T, V) of smoothed one-hot labels."""

    def __init__(self, smoothing):
        super().__init__(reduction="mean_with_sample_weight")
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        cross_entropy = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        label_logit = ops.take_along_axis(y_pred, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        return cross_entropy + self.smoothing * (label_logit - ops.mean(y_pred, axis=-1))


def read(split, examples):
    """The split's first German and English sentences as lists of str."""
    pairs = list(tfds.load(multi30k.Builder.name, split=SPLITS[split]).take(examples).as_numpy_iterator())
    return [pair["de"].decode() for pair in pairs], [pair["en"].decode() for pair in pairs]


@functools.cache
def train_tokenizers(examples, vocabulary_size):
    """The vocabularies of the training sentences, German and English."""
    return [byte_pair_tokenizer(sentences, vocabulary_size) for sentences in read("train", examples)]


def tokens_of(tokenizer, sentences):
    """Tokens of each sentence with the end token, ragged: (sentences, None) int32."""
    return tf.ragged.constant([[*line.ids, END] for line in tokenizer.encode_batch(sentences)], dtype=tf.int32)


def load_data(hp, split):
    """Batches of (German (B, S), English shifted right (B, T)), English (B, T), weight (B, T): 1 on real tokens.

    Sentences of similar length share a batch.
    """

    def teacher_forcing(source, target):
        shifted, weight = shift_right(target, START)
        return (source, shifted), target, weight

    german, english = map(
        tokens_of, train_tokenizers(hp["examples"], hp["vocabulary_size"]), read(split, hp["examples"])
    )
    longer = np.maximum(german.row_lengths(), english.row_lengths())
    batches = bucket((german, english), longer, BUCKETS, hp["batch_size"], split == "train")
    return batches.map(teacher_forcing).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.05), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """BLEU on test: lower-cased, like the published figure, and cased; perplexity per token."""
    german, english = read("test", hp["examples"])
    vocabularies = train_tokenizers(hp["examples"], hp["vocabulary_size"])
    results = {"nearest_bleu": bleu(nearest_translations(hp, german), english, lowercase=True)}
    for search, beam_size in (("greedy", 1), ("beam", 5)):
        translations = translate(model, vocabularies, german, beam_size)
        results[f"bleu_{search}"] = bleu(translations, english, lowercase=True)
        results[f"bleu_{search}_cased"] = bleu(translations, english, lowercase=False)
    results["test_perplexity"] = model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["perplexity"]
    return results


def bleu(translations, references, lowercase):
    """sacrebleu's corpus BLEU with its own tokenizer (13a)."""
    return sacrebleu.corpus_bleu(translations, [references], lowercase=lowercase, tokenize="13a").score


def nearest_translations(hp, german):
    """The baseline: for each sentence the English side of the training sentence that is nearest by TF-IDF."""
    known_german, known_english = read("train", hp["examples"])
    tfidf = TfidfVectorizer(sublinear_tf=True)
    similarity = tfidf.fit_transform(known_german) @ tfidf.transform(german).T  # (training sentences, sentences)
    return [known_english[index] for index in np.asarray(similarity.argmax(axis=0))[0]]


def translate(model, vocabularies, sentences, beam_size=5, alpha=1.0):
    """Returns the translation of each of `sentences`.

    vocabularies: `tokenizers.Tokenizer.from_file` of german.json and of english.json.
    beam_size: 1 decodes greedily.
    alpha: length normalization of the beam's scores, see `beam_search`.
    """
    german, english = vocabularies
    encoded = [model.get_layer(name).output for name in ("memory", "query_state", "answer_state")]
    encoder = keras.Model(model.inputs[0], encoded)
    later_states = [model.get_layer(name).output[1] for name in ("query", "answer")]
    decoder = keras.Model([*model.inputs, *encoded], [model.outputs[0], *later_states])

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def write(source):
        memory, *states = map(tf.identity, encoder(source))  # Without Keras's mask: the decoder makes its own.
        repeated, memory = (tf.repeat(tensor, beam_size, axis=0) for tensor in (source, memory))

        def step(tokens, states):
            logits, *states = decoder([repeated, tokens[:, None], memory, *states])
            return tf.nn.log_softmax(logits[:, 0]), states

        start = tf.fill(tf.shape(source)[:1], START)
        if beam_size == 1:
            return greedy(step, start, states, LONGEST, END)
        return beam_search(step, start, states, LONGEST, beam_size, END, alpha)[0][:, 0]

    source = tokens_of(german, sentences).to_tensor()
    written = [write(batch) for batch in tf.data.Dataset.from_tensor_slices(source).batch(500)]
    return english.decode_batch(np.concatenate(written).tolist())


def assets(hp):
    """The vocabularies and their merges, as `tokenizers.Tokenizer.from_file` reads them."""
    german, english = train_tokenizers(hp["examples"], hp["vocabulary_size"])
    return {"german.json": german.to_str(pretty=True), "english.json": english.to_str(pretty=True)}


def attention_map(model, vocabularies, source, target):
    """The subwords of both sentences (S), (T), and what each of the second attends to in the first (T, S)."""
    source, target = (each.encode(sentence) for each, sentence in zip(vocabularies, (source, target)))
    inputs = [tf.constant([[*source.ids, END]]), tf.constant([[START, *target.ids]])]
    (weights,) = keras.Model(model.inputs, model.get_layer("attention").output[1])(inputs)
    pieces = [[piece.removeprefix("▁") for piece in line.tokens] + ["⏎"] for line in (source, target)]
    return *pieces, weights.numpy()


def show(model, hp):
    """The attention in four validation sentences, and ten translations beside their references."""
    german, english = (sentences[:10] for sentences in read("validation", hp["examples"]))
    vocabularies = train_tokenizers(hp["examples"], hp["vocabulary_size"])
    translations = translate(model, vocabularies, german)
    picture, axes = new(13.0, 12.0, rows=2, columns=2)
    # Around twelve words long: enough to see words change places, few enough to read.
    chosen = sorted(range(len(german)), key=lambda index: abs(len(german[index].split()) - 12))[:4]
    for ax, index in zip(axes.flat, chosen):
        source, target, weights = attention_map(model, vocabularies, german[index], translations[index])
        heat_map(ax, weights, rows=target, columns=source)
        ax.tick_params(axis="x", top=True, bottom=False, labeltop=True, labelbottom=False, rotation=60)
    samples = [
        f"German      {source}\nreference   {reference}\ntranslation {translation}"
        for source, reference, translation in zip(german, english, translations)
    ]
    return {"attention": picture, "translations": "\n\n".join(samples)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
