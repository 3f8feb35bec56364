"""A GRU encoder-decoder with attention translates German captions of photographs into English.

Result    bleu beam 39.51 ± 0.19 over 3 seeds, 14.8 minutes a run (14.0 CPU minutes) on 1 core
Baseline  phrase-based translation (Koehn et al. 2003), which passes the published figure too
Published 36.09 BLEU, greedy: Transformer of bentrevett/pytorch-seq2seq, whose GRU with attention has 28.2; both texts
          lower-cased, as spaCy's tokens there, by sacrebleu (13a) here
Paper     Bahdanau, Cho and Bengio, Neural Machine Translation by Jointly Learning to Align and Translate, 2014,
          https://arxiv.org/abs/1409.0473. Here one decoder GRU computes the queries and a second follows the attention
          (Wu et al. 2016, https://arxiv.org/abs/1609.08144), so that training processes all steps at once.
Answers   How good are the translations? They reach 39.5 BLEU, phrase-based ones 37.8.
          What does beam search add? BLEU is 38.2 greedily and 39.5 with a beam of five.
          Does one vector hold a sentence? With the encoder's last states in place of attention, BLEU is 35.6 instead of
          40.4 on sentences of up to 9 words, 29.3 instead of 40.1 on 10 to 13, and 22.8 instead of 37.8 on longer ones.
          Dot-product or additive attention? Either: BLEU is 39.5 and 39.3 at the same learning rate, no difference
          beyond the spread of the seeds.
          What does feeding the context back add? Nothing: if the decoder's output layer alone reads it, BLEU is 39.6
          instead of 39.5, no difference beyond the spread of the seeds.
          How far apart are teacher forcing and free running? Given the reference's tokens so far, 66.3% of the next are
          right, given its own 32.1%, place by place. BLEU, which forgives shifts, is 37.8 and 38.2. Both gaps include
          the wording that the reference's tokens give away.
          Perplexity, accuracy or BLEU? They are 5.8, 66.3% and 39.5, without attention 8.1, 59.1% and 29.2. The first
          two judge tokens that follow the reference's, BLEU whole translations.

    python -m recipes.seq2seq.translation
    python -m recipes.seq2seq.translation --set attention=additive
    python -m recipes.seq2seq.translation --try "Ein Mann schläft auf einem Sofa."
"""

import functools

import keras
import numpy as np
import sacrebleu
import tensorflow as tf
import tensorflow_datasets as tfds
import tokenizers
from keras import layers, ops

from common.callbacks import OneCycle
from common.datasets import multi30k
from common.decoding import decoder
from common.metrics import Perplexity, SmoothedCrossEntropy
from common.phrases import translate_by_phrases
from common.plots import new
from common.text import byte_pair_tokenizer, teacher_forcing, tokens_of

PROMISE = {
    "figure": {"metric": "bleu_beam", "better": "higher"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"metric": "bleu_phrases", "name": "phrase-based translation"},
    "published": {"metric": "bleu_greedy", "value": 36.09, "source": "bentrevett/pytorch-seq2seq, Transformer, greedy"},
    "data": ["multi30k"],
}
TINY = {"examples": 60, "epochs": 2, "units": 32, "vocabulary_size": 500}
VARIANTS = {
    "one vector": {"attention": "none"},
    "additive attention": {"attention": "additive"},
    "context not fed back": {"feed_context": False},
}
PINNED = ("vocabulary_size",)  # Perplexity per token depends on it.
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END = 1, 2  # 0 is padding, 3 a character that does not occur in training.
BUCKETS = [12, 14, 17, 20, 25]  # The lengths of German and of English sentences at which a bucket begins.
LONGEST = 80  # Tokens of a sentence or its translation, at most.
LENGTHS = {"short": range(10), "medium": range(10, 14), "long": range(14, 1_000)}  # Words of a German sentence.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 60, 29_000, default=29_000)  # Sentences read from each split, at most.
    hp.Int("epochs", 1, 40, default=9)
    hp.Int("batch_size", 16, 256, step=16, default=64)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=3_000)  # Of each language.
    hp.Int("units", 32, 1024, step=32, default=256)
    hp.Choice("attention", ["dot", "additive", "none"], default="dot")  # Additive: a step takes a tenth longer.
    hp.Boolean("feed_context", default=True)  # Whether the decoder's second GRU reads the context.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.3)
    hp.Float("label_smoothing", 0.0, 0.3, step=0.05, default=0.1)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Teacher forcing: (source (B, S), target shifted right (B, T)) to logits (B, T, V)."""
    units, vocabulary_size = hp["units"], hp["vocabulary_size"]
    gru = functools.partial(layers.GRU, units, return_sequences=True, return_state=True)
    unit_scale = keras.initializers.RandomNormal(stddev=1.0)
    # The target's embedding is the output layer too (Press and Wolf 2016): small for the logits, then rescaled.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    source_embedding = layers.Embedding(vocabulary_size, units, unit_scale)
    target_embedding = layers.ReversibleEmbedding(vocabulary_size, units, embeddings_initializer=small)
    rescaled = layers.Rescaling(units**0.5)
    dropout = layers.Dropout(hp["dropout"])

    source = keras.Input((None,), dtype="int32", name="source")
    mask = ops.not_equal(source, 0)
    outputs, *last_states = layers.Bidirectional(gru(), name="encoder")(dropout(source_embedding(source)), mask=mask)
    last_states = ops.concatenate(last_states, axis=-1)  # (B, 2 units)
    # What the decoder reads of the sentence: a vector for each token (B, S, units), or one for all (B, units).
    memory = layers.Dense(units, name="memory")(last_states if hp["attention"] == "none" else outputs)
    state = layers.Dense(units, activation="tanh", name="state")(last_states)
    # Each initial state of the decoder is a layer of its own, whose output `decoder` replaces with later states.
    query_state, answer_state = layers.Identity(name="query_state")(state), layers.Identity(name="answer_state")(state)

    shifted = keras.Input((None,), dtype="int32", name="shifted_target")
    query, _ = gru(name="query")(dropout(rescaled(target_embedding(shifted))), initial_state=query_state)
    if hp["attention"] == "none":
        context = ops.zeros_like(query) + ops.expand_dims(memory, axis=1)  # The same at every step.
    else:
        attention = {"dot": layers.Attention, "additive": layers.AdditiveAttention}[hp["attention"]]
        attention = attention(use_scale=True, name="attention")
        context, _ = attention([query, memory], mask=[None, mask], return_attention_scores=True)  # scores (B, T, S)
    answer_input = ops.concatenate([query, context], axis=-1) if hp["feed_context"] else query
    answer, _ = gru(name="answer")(dropout(answer_input), initial_state=answer_state)
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


def read(split, examples):
    """The split's German and English sentences as two lists of str."""
    pairs = list(tfds.load(multi30k.Builder.name, split=SPLITS[split]).take(examples).as_numpy_iterator())
    return [pair["de"].decode() for pair in pairs], [pair["en"].decode() for pair in pairs]


@functools.cache
def train_tokenizers(examples, vocabulary_size):
    """The tokenizers of the training sentences, German and English."""
    return [byte_pair_tokenizer(sentences, vocabulary_size) for sentences in read("train", examples)]


def load_data(hp, split):
    """Batches of (German (B, S), shifted English (B, T)), English (B, T), weight (B, T); see `teacher_forcing`."""
    both = zip(train_tokenizers(hp["examples"], hp["vocabulary_size"]), read(split, hp["examples"]))
    german, english = (tokens_of(tokenizer, sentences, slice(LONGEST - 1), [END]) for tokenizer, sentences in both)
    return teacher_forcing(german, english, START, [BUCKETS, BUCKETS], hp["batch_size"], shuffled=split == "train")


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
    """BLEU (sacrebleu's 13a) on test, lower-cased like the published figure, or cased; what teacher forcing changes."""
    german, english = read("test", hp["examples"])
    # The weights of language model and length are the best of ten pairs on validation.
    by_phrases = translate_by_phrases(*read("train", hp["examples"]), german, fluency=0.4, word_bonus=1.8)
    greedy, translations = (predict(model, assets(hp), german, beam_size) for beam_size in (1, 5))
    texts = {"phrases": by_phrases, "greedy": greedy, "beam": translations}
    results = {f"bleu_{name}": bleu(each, english) for name, each in texts.items()}
    results["bleu_beam_cased"] = sacrebleu.corpus_bleu(translations, [english]).score
    for name, lengths in LENGTHS.items():
        pairs = [pair for text, *pair in zip(german, translations, english) if len(text.split()) in lengths]
        results[f"bleu_{name}"] = bleu(*zip(*pairs))
    results["test_perplexity"] = model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["perplexity"]
    return results | compare_prefixes(model, hp, "test")


def bleu(texts, references):
    """BLEU of texts with one reference each, ignoring case."""
    return sacrebleu.corpus_bleu(texts, [references], lowercase=True).score


def compare_prefixes(model, hp, split):
    """How often the next token of a translation is right, given the reference's tokens before it or its own."""
    _, tokenizer = train_tokenizers(hp["examples"], hp["vocabulary_size"])
    decode, right, texts = decoder(model, START, END, LONGEST, alpha=1.0), [], []
    for (source, shifted), target, _ in load_data(hp, split):
        target = target.numpy()
        forced = np.where(target, np.argmax(model.predict_on_batch((source, shifted)), axis=-1), 0)  # (B, T)
        free = decode(source)[:, : target.shape[1]]
        right.append([(each == target)[target != 0] for each in (forced, free)])
        texts += zip(*(tokenizer.decode_batch(tokens.tolist()) for tokens in (forced, target)))
    forced, free = np.concatenate(right, axis=1).mean(axis=1)
    return {"accuracy_forced": forced, "accuracy_free": free, "bleu_forced": bleu(*zip(*texts))}


def predict(model, assets, inputs, beam_size=5):
    """Translates: each input is a German sentence, each output its English translation; a beam of 1 is greedy.

    Raises ValueError for an input without a word.

        model = keras.models.load_model("model.keras")
        assets = {name: open(name).read() for name in ("german.json", "english.json")}
        predict(model, assets, ["Ein Mann schläft auf einem Sofa."])
    """
    sentences = [" ".join(text.split()) for text in inputs]
    if not all(sentences):
        raise ValueError('an input is empty: expected a German sentence, such as "Ein Mann schläft auf einem Sofa."')
    german, english = (tokenizers.Tokenizer.from_str(assets[name]) for name in ("german.json", "english.json"))
    source = tokens_of(german, sentences, slice(LONGEST - 1), [END]).to_tensor()
    return english.decode_batch(decoder(model, START, END, LONGEST, alpha=1.0)(source, beam_size).tolist())


def assets(hp):
    """The two tokenizers, as `tokenizers.Tokenizer.from_file` reads them."""
    german, english = train_tokenizers(hp["examples"], hp["vocabulary_size"])
    return {"german.json": german.to_str(pretty=True), "english.json": english.to_str(pretty=True)}


def show(model, hp):
    """What each subword of an English translation attends to in the German sentence."""
    german, english = (sentences[:10] for sentences in read("validation", hp["examples"]))
    translations = predict(model, assets(hp), german)
    samples = map("German      {}\nreference   {}\ntranslation {}".format, german, english, translations)
    shown = {"translations": "\n\n".join(samples)}
    if hp["attention"] == "none":
        return shown
    # Ten words are legible, and enough to see some change places.
    pair = min(zip(german, translations), key=lambda pair: abs(len(pair[0].split()) - 10))
    both = zip(train_tokenizers(hp["examples"], hp["vocabulary_size"]), pair)
    source, target = (tokenizer.encode(sentence) for tokenizer, sentence in both)
    inputs = [tf.constant([[*source.ids, END]]), tf.constant([[START, *target.ids]])]
    (weights,) = keras.Model(model.inputs, model.get_layer("attention").output[1])(inputs)  # (T, S)
    columns, rows = ([*(piece.removeprefix("▁") for piece in line.tokens), "end"] for line in (source, target))
    picture, axes = new(5.6, 5.0)
    picture.colorbar(axes.imshow(weights, cmap="Oranges", vmin=0, vmax=1, aspect="auto"), label="attention weight")
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(title="What each English subword attends to", xlabel="German", ylabel="English")
    return {"attention": picture, **shown}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
