"""An encoder-decoder that can copy from its input writes subject lines for the Enron emails in aeslc.

Result    rouge l beam 24.972 with one seed, 15.1 minutes a run (15.7 of CPU) on 2 cores
Baseline  lead: the email's first sentence
Published 23.44 ROUGE-L: extractor and abstractor trained by reinforcement learning (Zhang and Tetreault 2019,
          https://arxiv.org/abs/1906.03497), with pretrained word vectors; PEGASUS, pretrained on web pages, has 36.8
Paper     See, Liu and Manning, Get To The Point: Summarization with Pointer-Generator Networks, 2017,
          https://arxiv.org/abs/1704.04368; lower case, as there, but with GRUs for LSTMs, no coverage, since a subject
          line is too short to repeat itself, and subwords, so that copied words need no vocabulary of their own
Answers   How much of a subject line is copied from the email? How much does copying add? And beam search?

    python -m recipes.seq2seq.summarization
    python -m recipes.seq2seq.summarization --set copying=False --seed 1
"""

import functools
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from rouge_score import rouge_scorer

from common.callbacks import OneCycle
from common.data import bucket
from common.decoding import beam_search, greedy
from common.metrics import TokenMean
from common.plots import heat_map, new
from common.text import byte_pair_tokenizer, shift_right

PROMISE = {
    "figure": {"metric": "rouge_l_beam", "better": "higher"},
    "monitor": {"metric": "val_nats", "better": "lower"},
    "baseline": {"metric": "lead_rouge_l", "name": "the mail's first sentence"},
    "published": {"value": 23.44, "source": "Zhang and Tetreault 2019, their own system"},
    "data": ["aeslc"],
    "tolerance": 2.0,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 50, "epochs": 2, "units": 32, "vocabulary_size": 500, "length": 40}
VARIANTS = {"without copying": {"copying": False}}
PINNED = ("vocabulary_size", "length")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END, UNKNOWN = 1, 2, 3  # 0 is padding; UNKNOWN a character that training never showed.
BUCKETS = [[40, 55, 70, 85, 100], [6, 9, 13]]  # The lengths, of mails and of subjects, at which a bucket begins.
LONGEST = 24  # Tokens in a subject line, at most.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 48, 14_436, default=14_436)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=10)
    hp.Int("batch_size", 16, 256, step=16, default=32)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=6_000)  # Subwords, for mails and subject lines.
    hp.Int("length", 20, 400, step=10, default=100)  # Tokens read of a mail; its point comes early.
    hp.Int("units", 32, 1024, step=32, default=192)
    hp.Boolean("copying", default=True)  # False writes from the vocabulary alone.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.4)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Teacher forcing: (mail (B, S), subject shifted right (B, T), subject (B, T)) to the subject's log p (B, T).

    A token's probability is that of writing times that of the word, plus that of copying times the attention to all
    places in the mail where the token occurs (See et al. 2017, eq. 9). That sum needs the token, hence the third input.
    """
    units = hp["units"]
    recurrent = {"return_sequences": True, "return_state": True}
    # One matrix for mail, subject and softmax (Press and Wolf 2016): small for the logits, `rescaled` undoes it.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    embedding = layers.ReversibleEmbedding(hp["vocabulary_size"], units, embeddings_initializer=small)
    rescaled = layers.Rescaling(units**0.5)
    dropout = layers.Dropout(hp["dropout"])

    mail = keras.Input((None,), dtype="int32", name="mail")
    mask = ops.not_equal(mail, 0)
    encoder = layers.Bidirectional(layers.GRU(units, **recurrent), name="encoder")
    outputs, *last_states = encoder(dropout(rescaled(embedding(mail))), mask=mask)  # (B, S, 2 units)
    memory = layers.Dense(units, name="memory")(dropout(outputs))
    state = layers.Dense(units, activation="tanh", name="state")(ops.concatenate(last_states, axis=-1))
    # The decoder's two initial states, each with a name: `summarize` replaces them with later ones.
    query_state, answer_state = layers.Identity(name="query_state")(state), layers.Identity(name="answer_state")(state)

    shifted = keras.Input((None,), dtype="int32", name="shifted_subject")
    subject = keras.Input((None,), dtype="int32", name="subject")
    query_layer = layers.GRU(units, **recurrent, name="query")
    query, _ = query_layer(dropout(rescaled(embedding(shifted))), initial_state=query_state)  # (B, T, units)
    attend = layers.Attention(use_scale=True, name="attention")
    context, attention = attend([query, memory], mask=[None, mask], return_attention_scores=True)  # (B, T, S)
    answer_layer = layers.GRU(units, **recurrent, name="answer")
    answer, _ = answer_layer(ops.concatenate([query, context], axis=-1), initial_state=answer_state)
    seen = dropout(ops.concatenate([answer, context], axis=-1))
    output = layers.Dense(units, name="output")(seen)
    logits = layers.Identity(name="logits")(embedding(dropout(output), reverse=True))  # (B, T, V)
    log_probability = ops.take_along_axis(ops.log_softmax(logits), subject[..., None], axis=-1)[..., 0]  # (B, T)
    if hp["copying"]:
        same = ops.cast(ops.equal(subject[:, :, None], mail[:, None, :]), "float32")  # (B, T, S)
        copied = ops.log(ops.sum(attention * same, axis=-1) + 1e-9)
        writing = layers.Dense(1, name="writing")(seen)[..., 0]  # the logit of writing rather than copying
        log_probability = ops.logaddexp(ops.log_sigmoid(writing) + log_probability, ops.log_sigmoid(-writing) + copied)
    model = keras.Model([mail, shifted, subject], log_probability, name="summarization")
    model.compile(
        keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0),
        Surprise(reduction="sum"),  # `load_data` weights tokens.
        weighted_metrics=[TokenMean(Surprise(reduction=None), "nats")],
        jit_compile=False,
        steps_per_execution=8,
    )
    return model


class Surprise(keras.losses.Loss):
    """-log p of every token, for a model whose output is the log p (B, T) of its last input."""

    def call(self, y_true, y_pred):
        return -y_pred


@functools.cache
def read(examples, split):
    """The split's mails and subject lines as lists of str, with single spaces for all white space."""
    pairs = list(tfds.load("aeslc", split=SPLITS[split]).take(examples).as_numpy_iterator())
    return tuple([" ".join(pair[key].decode().split()) for pair in pairs] for key in ("email_body", "subject_line"))


@functools.cache
def train_tokenizer(examples, vocabulary_size):
    """One vocabulary for mails and subjects, which makes copying possible; lower case, since "MEETING" is rare."""
    texts = [text for column in read(examples, "train") for text in column]
    return byte_pair_tokenizer(texts, vocabulary_size, lowercase=True)


def tokens_of(tokenizer, texts, length):
    """Up to `length` tokens of each text, ragged: (texts, None) int32. An empty text is one unknown character."""
    return tf.ragged.constant([line.ids[:length] or [UNKNOWN] for line in tokenizer.encode_batch(texts)], tf.int32)


def load_data(hp, split):
    """Batches of (mail (B, S), subject shifted right (B, T), subject (B, T)), subject again, weight (B, T).

    The weights are 0 on padding and add up to about 1. Within a batch, mails have similar lengths, as do subjects.
    """
    tokenizer = train_tokenizer(hp["examples"], hp["vocabulary_size"])
    mails, subjects = read(hp["examples"], split)
    mails = tokens_of(tokenizer, mails, hp["length"])
    subjects = tf.concat([tokens_of(tokenizer, subjects, LONGEST - 1), tf.fill((len(subjects), 1), END)], axis=1)
    lengths = [mails.row_lengths(), subjects.row_lengths()]
    batches = bucket((mails, subjects), lengths, BUCKETS, hp["batch_size"], split == "train")
    # The same for all batches: with a batch's own, tokens of short subjects would weigh more than those of long ones.
    tokens_per_batch = hp["batch_size"] * np.mean(subjects.row_lengths())

    def teacher_forcing(mail, subject):
        shifted, weight = shift_right(subject, START)
        return (mail, shifted, subject), subject, weight / tokens_per_batch

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
    """ROUGE on test, greedy and with a beam, the lead's, and the share of the subjects' words that are in the mail."""
    mails, subjects = read(hp["examples"], "test")
    tokenizer = train_tokenizer(hp["examples"], hp["vocabulary_size"])
    by_beam, greedily = (summarize(model, tokenizer, mails, hp["length"], beam_size) for beam_size in (5, 1))
    first_sentences = [re.split(r"(?<=[.?!]) ", mail, maxsplit=1)[0] for mail in mails]
    rouge_1, rouge_2, rouge_l = rouge(by_beam, subjects)
    return {
        "rouge_l_beam": rouge_l,
        "rouge_1_beam": rouge_1,
        "rouge_2_beam": rouge_2,
        "rouge_l_greedy": rouge(greedily, subjects)[2],
        "lead_rouge_l": rouge(first_sentences, subjects)[2],
        "nats_per_token": model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["nats"],
        "words_from_mail_written": share_from_mail(by_beam, mails),
        "words_from_mail_in_references": share_from_mail(subjects, mails),
    }


def rouge(written, references):
    """ROUGE-1, ROUGE-2 and ROUGE-L, F1 of stemmed words in percent, means over the texts: three floats."""
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(written, references, strict=True)]
    return [100 * float(np.mean([score[name].fmeasure for score in scores])) for name in scorer.rouge_types]


def share_from_mail(subjects, mails):
    """The share of the subjects' words that occur in their mails, in lower case."""
    pairs = [(subject.lower().split(), mail.lower().split()) for subject, mail in zip(subjects, mails, strict=True)]
    return float(np.mean([word in mail for subject, mail in pairs for word in subject] or [0.0]))


def summarize(model, tokenizer, mails, length, beam_size=5, alpha=1.0):
    """Returns a subject line for each of `mails`.

    tokenizer: `tokenizers.Tokenizer.from_file` of vocabulary.json.
    length: tokens read of a mail, as in training.
    beam_size, alpha: see `beam_search`; a beam of 1 is decoded greedily.
    """
    outputs = {layer.name: layer.output for layer in model.layers}
    encoder = keras.Model(model.inputs[0], [outputs[name] for name in ("memory", "query_state", "answer_state")])
    names = [name for name in ("logits", "attention", "writing", "query", "answer") if name in outputs]
    decoder = keras.Model([*model.inputs[:2], *encoder.outputs], {name: outputs[name] for name in names})

    @tf.function(input_signature=[tf.TensorSpec((None, None), tf.int32)])
    def write(mail):
        memory, *states = map(tf.identity, encoder(mail))  # Without Keras's mask: the decoder makes its own.
        memory, mail = (tf.repeat(tensor, beam_size, axis=0) for tensor in (memory, mail))  # (N, ...)
        places = tf.stack([tf.cumsum(tf.ones_like(mail), exclusive=True), mail], axis=-1)  # (N, S, 2): row and token

        def step(tokens, states):
            found = decoder([mail, tokens[:, None], memory, *states])
            probability = tf.nn.softmax(found["logits"][:, 0])
            if "writing" in found:
                writing = tf.sigmoid(found["writing"][:, 0])  # (N, 1)
                copied = (1 - writing) * found["attention"][1][:, 0]  # (N, S)
                probability = tf.tensor_scatter_nd_add(writing * probability, places, copied)
            return tf.math.log(probability + 1e-9), [found["query"][1], found["answer"][1]]

        start = tf.fill(tf.shape(states[0])[:1], START)
        if beam_size == 1:
            return greedy(step, start, states, LONGEST, END)
        return beam_search(step, start, states, LONGEST, beam_size, END, alpha)[0][:, 0]

    source = tokens_of(tokenizer, [" ".join(mail.split()) for mail in mails], length).to_tensor()
    written = [write(batch) for batch in tf.data.Dataset.from_tensor_slices(source).batch(200)]
    return tokenizer.decode_batch(np.concatenate(written).tolist())


def assets(hp):
    """The vocabulary and its merges, as `tokenizers.Tokenizer.from_file` reads them."""
    return {"vocabulary.json": train_tokenizer(hp["examples"], hp["vocabulary_size"]).to_str(pretty=True)}


def show(model, hp):
    """Where one validation mail's subject line was copied from, and ten subject lines beside the original ones."""
    tokenizer = train_tokenizer(hp["examples"], hp["vocabulary_size"])
    mails, subjects = (texts[:10] for texts in read(hp["examples"], "validation"))
    written = summarize(model, tokenizer, mails, hp["length"])
    samples = ["mail     {:.300}\nsubject  {}\nwritten  {}".format(*texts) for texts in zip(mails, subjects, written)]
    # The one with the most words from the beginning of the mail.
    shared = [len({*line.split()} & {*mail.lower().split()[:30]}) for mail, line in zip(mails, written)]
    mail, subject = (tokenizer.encode(texts[np.argmax(shared)]) for texts in (mails, written))
    inputs = [tf.constant([mail.ids[: hp["length"]]]), tf.constant([[START, *subject.ids]])]
    outputs = {layer.name: layer.output for layer in model.layers if layer.name in ("attention", "writing")}
    found = keras.Model(model.inputs[:2], outputs)(inputs)
    copied = found["attention"][1] * (tf.sigmoid(-found["writing"]) if "writing" in found else 1.0)  # (1, T, S)
    columns, rows = ([piece.removeprefix("▁") for piece in line.tokens] for line in (mail, subject))
    picture, axes = new(12.0, 0.35 * len(rows) + 2.0)
    heat_map(axes, copied[0, :, :40].numpy(), [*rows, "⏎"], columns[:40])
    axes.tick_params(axis="x", rotation=90)
    axes.set(xlabel="the mail", ylabel="the subject line", title="What each subword was copied from")
    return {"copied": picture, "subjects": "\n\n".join(samples)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
