"""A GRU encoder-decoder with attention translates German captions of photographs into English.

Result    bleu greedy 37.93 with one seed, 15.2 minutes a run (24.3 of CPU) on 2 cores
Baseline  the English side of the training sentence whose German side is nearest by TF-IDF
Anchor    28.3 BLEU, greedy: GRU with additive attention, trained for 10 epochs (bentrevett, pytorch-seq2seq);
          on lower-cased spaCy tokens there, by sacrebleu on lower-cased detokenized text here (13a)
Paper     Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2014,
          https://arxiv.org/abs/1409.0473; the attention looks from a GRU of its own whose result a second GRU reads,
          as in Wu et al. 2016, https://arxiv.org/abs/1609.08144, so that training runs over all steps at once
Answers   What does attention look at? How much is beam search worth over greedy decoding? Dot product or additive?

    python -m recipes.seq2seq.translation
    python -m recipes.seq2seq.translation --set attention=additive --seed 1
"""

import functools

import keras
import numpy as np
import sacrebleu
import tensorflow as tf
import tokenizers
from keras import ops
from sklearn.feature_extraction import text

from common import data, decoding, metrics, plots, runner, training
from common.datasets import multi30k

PROMISE = {
    "figure": {"metric": "bleu_greedy", "better": "higher"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"metric": "nearest_bleu", "name": "translation of the nearest training sentence"},
    "anchor": {"value": 28.3, "source": "bentrevett/pytorch-seq2seq, GRU with attention, greedy"},
    "data": ["multi30k"],
    "tolerance": 1.0,  # For `verify`, since one seed tells no spread.
}
TINY = {"examples": 64, "epochs": 2, "units": 32, "vocabulary_size": 500}
VARIANTS = {"additive attention": {"attention": "additive"}}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END = 1, 2  # 0 is padding, 3 a character that training never showed.
BUCKETS = [12, 14, 16, 18, 20, 23, 27, 33]  # Upper ends of the longer side's length, in tokens.
LONGEST = 80  # Tokens that a translation may have.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 64, 29_000, default=29_000)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=7)
    hp.Int("batch_size", 16, 256, step=16, default=64)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=3_000)  # As fine as 6,000 shared by both.
    hp.Int("units", 32, 1024, step=32, default=256)
    hp.Choice("attention", ["dot", "additive"], default="dot")  # A step of additive attention takes a tenth longer.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.3)
    hp.Float("label_smoothing", 0.0, 0.3, step=0.05, default=0.1)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak, after the warm-up.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def read(hp, split):
    """The split's German and English sentences as lists of str."""
    pairs = list(data.load(multi30k.Builder, SPLITS[split], hp["examples"]).as_numpy_iterator())
    return [pair["de"].decode() for pair in pairs], [pair["en"].decode() for pair in pairs]


@functools.cache
def byte_pair_encoding(sentences, vocabulary_size):
    """A language's vocabulary of pieces of words (Sennrich et al. 2016).

    Spaces are part of a word's first piece and punctuation stands alone: decoding gives the text back exactly.
    """
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unknown>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = ["<padding>", "<start>", "<end>", "<unknown>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(sentences, trainer)
    return tokenizer


def train_tokenizers(hp):
    """The tokenizers of the training sentences, German and English."""
    return [byte_pair_encoding(tuple(sentences), hp["vocabulary_size"]) for sentences in read(hp, "train")]


def tokens_of(tokenizer, sentences):
    """Tokens of each sentence with the end token, ragged: (sentences, None) int32."""
    return tf.ragged.constant([[*line.ids, END] for line in tokenizer.encode_batch(sentences)], dtype=tf.int32)


def load_data(hp, split):
    """Batches of (German (B, S), English shifted right (B, T)), English (B, T), weight (B, T): 1 on real tokens.

    Sentences of similar length share a batch.
    """
    german, english = map(tokens_of, train_tokenizers(hp), read(hp, split))
    examples = tf.data.Dataset.from_tensor_slices((german, english))
    examples = examples.map(lambda source, target: (tf.identity(source), tf.identity(target))).cache()

    def shift(source, target):
        inputs = tf.concat([tf.fill((tf.shape(target)[0], 1), START), target[:, :-1]], axis=1)
        real = target != 0
        return (source, tf.where(real, inputs, 0)), target, tf.cast(real, tf.float32)

    longer = np.maximum(german.row_lengths(), english.row_lengths())
    batches = data.bucket(examples, longer, BUCKETS, hp["batch_size"], split == "train")
    return batches.map(shift).prefetch(tf.data.AUTOTUNE)


def encode(layer, source):
    """Reads the source (B, S).

    layer: from a name to the layer.

    Returns:
        memory (B, S, units) for the attention, its mask (B, S), and the decoder's two first states (B, units).
    """
    mask = ops.not_equal(source, 0)
    vectors = layer("dropout")(layer("source_embedding")(source))
    outputs, forward_state, backward_state = layer("encoder")(vectors, mask=mask)  # (B, S, 2 units)
    first_state = layer("first_state")(ops.concatenate([forward_state, backward_state], axis=-1))
    return layer("memory")(outputs), mask, [first_state, first_state]


def decode(layer, target, states, memory, mask):
    """Writes on after the target's tokens (B, T), from the states before them.

    Returns:
        logits (B, T, V), the states after the last token, and what the attention looked at (B, T, S).
    """
    vectors = layer("dropout")(layer("unit_scale")(layer("target_embedding")(target)))
    query, query_state = layer("query")(vectors, initial_state=states[0])  # (B, T, units)
    context, attention = layer("attention")([query, memory], mask=[None, mask], return_attention_scores=True)
    answer_input = layer("dropout")(ops.concatenate([query, context], axis=-1))
    answer, answer_state = layer("answer")(answer_input, initial_state=states[1])
    output = layer("output")(ops.concatenate([answer, context], axis=-1))
    return layer("target_embedding")(layer("dropout")(output), reverse=True), [query_state, answer_state], attention


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy against 1 - smoothing on the label and smoothing spread over the vocabulary: a token's mean.

    For labels (B, T) as indices and logits (B, T, V), without the (B, T, V) of a smoothed one-hot label.
    """

    def __init__(self, smoothing):
        super().__init__(reduction="mean_with_sample_weight")
        self.smoothing = smoothing

    def call(self, y_true, y_pred):
        cross_entropy = keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)
        label_logit = ops.take_along_axis(y_pred, ops.cast(y_true, "int32")[..., None], axis=-1)[..., 0]
        return cross_entropy + self.smoothing * (label_logit - ops.mean(y_pred, axis=-1))


def build_model(hp):
    """Teacher forcing: (source (B, S), target shifted right (B, T)) to logits (B, T, V)."""
    units, vocabulary_size = hp["units"], hp["vocabulary_size"]
    layers = keras.layers
    attention = {"dot": layers.Attention, "additive": layers.AdditiveAttention}[hp["attention"]]
    unit = keras.initializers.RandomNormal(stddev=1.0)
    # The target's matrix is the softmax's too (Press and Wolf 2016): small for the logits, unit_scale undoes it.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    recurrent = {"return_sequences": True, "return_state": True}
    parts = [
        layers.Embedding(vocabulary_size, units, embeddings_initializer=unit, name="source_embedding"),
        layers.ReversibleEmbedding(vocabulary_size, units, embeddings_initializer=small, name="target_embedding"),
        layers.Rescaling(units**0.5, name="unit_scale"),
        layers.Dropout(hp["dropout"], name="dropout"),
        layers.Bidirectional(layers.GRU(units, **recurrent), name="encoder"),
        layers.Dense(units, name="memory"),
        layers.Dense(units, activation="tanh", name="first_state"),
        layers.GRU(units, **recurrent, name="query"),
        attention(use_scale=True, name="attention"),
        layers.GRU(units, **recurrent, name="answer"),
        layers.Dense(units, name="output"),
    ]
    layer = {part.name: part for part in parts}.get
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    memory, mask, states = encode(layer, source)
    logits, _, _ = decode(layer, target, states, memory, mask)
    model = keras.Model([source, target], logits, name="translation")
    steps = hp["epochs"] * (hp["examples"] // hp["batch_size"] + len(BUCKETS))  # Every bucket ends in a short batch.
    schedule = keras.optimizers.schedules.CosineDecay(
        hp["learning_rate"] / 10, steps, warmup_target=hp["learning_rate"], warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        SmoothedCrossEntropy(hp["label_smoothing"]),
        weighted_metrics=[metrics.Perplexity()],
        jit_compile=False,
        steps_per_execution=8,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("translation", hp["examples"]),
        verbose=0,
        shuffle=False,
    )
    return model


def translate(model, vocabularies, sentences, beam_size=5, alpha=1.0):
    """Returns the translation of each of `sentences`.

    vocabularies: `tokenizers.Tokenizer.from_file` of german.json and of english.json.
    beam_size: 1 decodes greedily.
    alpha: length normalisation of the beam's scores, see `decoding.beam_search`.
    """
    german, english = vocabularies
    source = tokens_of(german, sentences).to_tensor()
    written = []
    for batch in tf.data.Dataset.from_tensor_slices(source).batch(500):
        memory, mask, states = encode(model.get_layer, batch)
        memory, mask = (tf.repeat(tensor, beam_size, axis=0) for tensor in (memory, mask))

        def step(tokens, states, memory=memory, mask=mask):
            logits, states, _ = decode(model.get_layer, tokens[:, None], states, memory, mask)
            return tf.nn.log_softmax(logits[:, 0]), states

        start = tf.fill(tf.shape(batch)[:1], START)
        if beam_size == 1:
            written.append(decoding.greedy(step, start, states, LONGEST, END))
        else:
            written.append(decoding.beam_search(step, start, states, LONGEST, beam_size, END, alpha)[0][:, 0])
    return english.decode_batch(np.concatenate(written).tolist())


def bleu(translations, references, lowercase):
    """sacrebleu's corpus BLEU with its own tokenizer (13a)."""
    return sacrebleu.corpus_bleu(translations, [references], lowercase=lowercase, tokenize="13a").score


def evaluate(model, hp):
    """BLEU on test: lower-cased as the anchor's, and cased."""
    german, english = read(hp, "test")
    vocabularies = train_tokenizers(hp)
    greedy = translate(model, vocabularies, german, beam_size=1)
    beam = translate(model, vocabularies, german)
    known_german, known_english = read(hp, "train")
    tfidf = text.TfidfVectorizer(sublinear_tf=True)
    likeness = tfidf.fit_transform(known_german) @ tfidf.transform(german).T  # (training sentences, test sentences)
    nearest = [known_english[index] for index in np.asarray(likeness.argmax(axis=0))[0]]
    return {
        "bleu_greedy": bleu(greedy, english, lowercase=True),
        "bleu_beam": bleu(beam, english, lowercase=True),
        "bleu_greedy_cased": bleu(greedy, english, lowercase=False),
        "bleu_beam_cased": bleu(beam, english, lowercase=False),
        "nearest_bleu": bleu(nearest, english, lowercase=True),
        "test_perplexity": model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["perplexity"],
    }


def assets(hp):
    """The vocabularies and their merges, as `tokenizers.Tokenizer.from_file` reads them."""
    german, english = train_tokenizers(hp)
    return {"german.json": german.to_str(pretty=True), "english.json": english.to_str(pretty=True)}


def attention_map(model, vocabularies, source, target):
    """Where the attention looks in `source` when `target` is written.

    Returns:
        The pieces of the source (S) and of the target (T) as str, and the weights (T, S), rows summing to 1.
    """
    source, target = (each.encode(sentence) for each, sentence in zip(vocabularies, (source, target)))
    memory, mask, states = encode(model.get_layer, tf.constant([[*source.ids, END]]))
    _, _, weights = decode(model.get_layer, tf.constant([[START, *target.ids]]), states, memory, mask)
    pieces = [[piece.removeprefix("▁") for piece in line.tokens] + ["⏎"] for line in (source, target)]
    return *pieces, weights[0].numpy()


def show(model, hp):
    """Where the attention looks in four validation sentences, and ten translations beside their references."""
    vocabularies = train_tokenizers(hp)
    german, english = (sentences[:10] for sentences in read(hp, "validation"))
    translations = translate(model, vocabularies, german)
    picture, axes = plots.new(13.0, 12.0, rows=2, columns=2)
    # Around twelve words long: enough to see words change places, few enough to read.
    chosen = sorted(range(len(german)), key=lambda index: abs(len(german[index].split()) - 12))[:4]
    for ax, index in zip(axes.flat, sorted(chosen)):
        source, target, weights = attention_map(model, vocabularies, german[index], translations[index])
        ax.imshow(weights, cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto")
        ax.set_xticks(range(len(source)), source, rotation=60, ha="left", rotation_mode="anchor")
        ax.set_yticks(range(len(target)), target)
        ax.set_xticks(np.arange(len(source)) - 0.5, minor=True)
        ax.set_yticks(np.arange(len(target)) - 0.5, minor=True)
        ax.grid(which="minor", color="white", linewidth=1.5)
        ax.tick_params(which="both", length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        ax.spines[:].set_visible(False)
    samples = [
        f"German      {source}\nreference   {reference}\ntranslation {translation}"
        for source, reference, translation in zip(german, english, translations)
    ]
    return {"attention": picture, "translations": "\n\n".join(samples)}


if __name__ == "__main__":
    runner.run(__spec__.name)
