"""An encoder-decoder that can copy words from its input writes subject lines for emails.

Result    rouge l beam 24.972 with one seed, 19.5 minutes a run (17.0 CPU minutes) on 2 cores
Baseline  lead: the email's first sentence
Published 23.44 ROUGE-L: extractor and abstractor, reinforcement learning, pretrained word vectors (Zhang and Tetreault
          2019, https://arxiv.org/abs/1906.03497); PEGASUS, pretrained on web pages, reaches 36.8
Paper     See, Liu and Manning, Get To The Point: Summarization with Pointer-Generator Networks, 2017,
          https://arxiv.org/abs/1704.04368. Here with GRUs instead of LSTMs, subwords instead of an extended vocabulary
          for copied words, and no coverage mechanism, since a subject line is too short to repeat itself.
Answers   Is it better than the email's first sentence? Yes: 25.0 ROUGE-L against 14.0.
          How many of its words occur in the email? 76%; of words in original subject lines, 52%.
          What does beam search add? Nothing with this seed: 25.0 ROUGE-L, 25.5 with greedy decoding.
          What does copying add? Without it, ROUGE-L is 17.2 instead of 25.0, and 52% of the words occur in the email.

    python -m recipes.seq2seq.summarization
    python -m recipes.seq2seq.summarization --try "Please send me the budget for the pipeline by Friday. Thanks, Ann"
"""

import functools
import os
import pathlib
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
import tokenizers
from keras import layers, ops
from rouge_score import rouge_scorer

from common.callbacks import OneCycle
from common.decoding import decoder
from common.metrics import TokenMean
from common.plots import heat_map, new
from common.text import byte_pair_tokenizer, teacher_forcing, tokens_of

PROMISE = {
    "figure": {"metric": "rouge_l_beam", "better": "higher"},
    "monitor": {"metric": "val_nats", "better": "lower"},
    "baseline": {"metric": "lead_rouge_l", "name": "the email's first sentence"},
    "published": {"value": 23.44, "source": "Zhang and Tetreault 2019, their own system"},
    "data": ["aeslc"],
    "tolerance": 2.0,  # For `verify`, since one seed shows no spread.
}
TINY = {"examples": 50, "epochs": 2, "units": 32, "vocabulary_size": 500, "length": 40}
VARIANTS = {"without copying": {"copying": False}}
PINNED = ("vocabulary_size", "length")
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END = 1, 2  # 0 is padding, 3 a character that does not occur in training.
BUCKETS = [[40, 55, 70, 85, 100], [6, 9, 13]]  # The lengths of emails and of subject lines at which a bucket begins.
LONGEST = 24  # Tokens of a subject line, at most.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 48, 14_436, default=14_436)  # Emails read from each split, at most.
    hp.Int("epochs", 1, 40, default=10)
    hp.Int("batch_size", 16, 256, step=16, default=32)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=6_000)  # Subwords, for emails and subject lines.
    hp.Int("length", 20, 400, step=10, default=100)  # Tokens read from an email, whose point comes early.
    hp.Int("units", 32, 1024, step=32, default=192)
    hp.Boolean("copying", default=True)  # False generates every subword from the vocabulary.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.4)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def build_model(hp):
    """Teacher forcing: (email (B, S), subject shifted right (B, T), subject (B, T)) to the subject's log p (B, T).

    A token's probability is that of generating times its softmax, plus that of copying times the attention to all its
    occurrences in the email (See et al. 2017, eq. 9); the third input says which token.
    """
    units = hp["units"]
    gru = functools.partial(layers.GRU, units, return_sequences=True, return_state=True)
    # One matrix for email, subject and output (Press and Wolf 2016): small for the logits, then rescaled.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    embedding = layers.ReversibleEmbedding(hp["vocabulary_size"], units, embeddings_initializer=small)
    rescaled = layers.Rescaling(units**0.5)
    dropout = layers.Dropout(hp["dropout"])

    mail = keras.Input((None,), dtype="int32", name="mail")
    mask = ops.not_equal(mail, 0)
    outputs, *last_states = layers.Bidirectional(gru(), name="encoder")(dropout(rescaled(embedding(mail))), mask=mask)
    memory = layers.Dense(units, name="memory")(dropout(outputs))  # (B, S, units)
    state = layers.Dense(units, activation="tanh", name="state")(ops.concatenate(last_states, axis=-1))
    # Each initial state of the decoder is a layer of its own, whose output `decoder` replaces with later states.
    query_state, answer_state = layers.Identity(name="query_state")(state), layers.Identity(name="answer_state")(state)

    shifted = keras.Input((None,), dtype="int32", name="shifted_subject")
    subject = keras.Input((None,), dtype="int32", name="subject")
    query, _ = gru(name="query")(dropout(rescaled(embedding(shifted))), initial_state=query_state)  # (B, T, units)
    attend = layers.Attention(use_scale=True, name="attention")
    context, attention = attend([query, memory], mask=[None, mask], return_attention_scores=True)  # (B, T, S)
    answer, _ = gru(name="answer")(ops.concatenate([query, context], axis=-1), initial_state=answer_state)
    seen = dropout(ops.concatenate([answer, context], axis=-1))
    output = layers.Dense(units, name="output")(seen)
    logits = layers.Identity(name="logits")(embedding(dropout(output), reverse=True))  # (B, T, V)
    log_probability = ops.take_along_axis(ops.log_softmax(logits), subject[..., None], axis=-1)[..., 0]  # (B, T)
    if hp["copying"]:
        same = ops.cast(ops.equal(subject[:, :, None], mail[:, None, :]), "float32")  # (B, T, S)
        copied = ops.log(ops.sum(attention * same, axis=-1) + 1e-9)
        writing = layers.Dense(1, name="writing")(seen)[..., 0]  # The logit of generating, not copying.
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
    """-log p of every token, for a model whose output is the log p (B, T) of the tokens of its last input."""

    def call(self, y_true, y_pred):
        return -y_pred


@functools.cache
def read(examples, split):
    """The split's emails and subject lines as lists of str, with single spaces for all white space."""
    pairs = list(tfds.load("aeslc", split=SPLITS[split]).take(examples).as_numpy_iterator())
    return tuple([" ".join(pair[key].decode().split()) for pair in pairs] for key in ("email_body", "subject_line"))


@functools.cache
def train_tokenizer(examples, vocabulary_size):
    """One vocabulary for emails and subject lines, which copying needs; lower case, since "MEETING" is rare."""
    mails, subjects = read(examples, "train")
    return byte_pair_tokenizer([*mails, *subjects], vocabulary_size, lowercase=True)


def load_data(hp, split):
    """Batches of (email (B, S), subject shifted right (B, T), subject (B, T)), subject again, weight (B, T)."""
    tokenizer = train_tokenizer(hp["examples"], hp["vocabulary_size"])
    mails, subjects = read(hp["examples"], split)
    mails = tokens_of(tokenizer, mails, slice(hp["length"]))
    subjects = tokens_of(tokenizer, subjects, slice(LONGEST - 1), [END])
    batches = teacher_forcing(mails, subjects, START, BUCKETS, hp["batch_size"], shuffled=split == "train")
    return batches.map(lambda inputs, subject, weight: ((*inputs, subject), subject, weight))


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
    """ROUGE on test: greedy, with a beam, and the lead's; the share of the subjects' words that occur in the email."""
    mails, subjects = read(hp["examples"], "test")
    by_beam, greedily = (predict(model, assets(hp), mails, beam_size) for beam_size in (5, 1))
    return {
        **dict(zip(("rouge_1_beam", "rouge_2_beam", "rouge_l_beam"), rouge(by_beam, subjects))),
        "rouge_l_greedy": rouge(greedily, subjects)[2],
        "lead_rouge_l": rouge([re.split(r"(?<=[.?!]) ", mail, maxsplit=1)[0] for mail in mails], subjects)[2],
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
    """The share of the subjects' words that occur in their emails, ignoring case."""
    pairs = [(subject.lower().split(), mail.lower().split()) for subject, mail in zip(subjects, mails, strict=True)]
    return float(np.mean([word in mail for subject, mail in pairs for word in subject] or [0.0]))


def predict(model, assets, inputs, beam_size=5):
    """Writes subject lines: each input is the text of an email or the path of a text file; a beam of 1 is greedy.

    Raises ValueError for an email without a word.

        model = keras.models.load_model("model.keras")
        assets = {name: open(name).read() for name in ("vocabulary.json", "length.txt")}
        predict(model, assets, ["Please send me the budget for the pipeline by Friday. Thanks, Ann"])
    """
    texts = [pathlib.Path(each).read_text(encoding="utf-8") if os.path.isfile(each) else each for each in inputs]
    mails = [" ".join(text.split()) for text in texts]
    if not all(mails):
        raise ValueError("an input is empty: expected the text of an email, or the path of a text file")
    tokenizer = tokenizers.Tokenizer.from_str(assets["vocabulary.json"])
    source = tokens_of(tokenizer, mails, slice(int(assets["length.txt"]))).to_tensor()
    decode = decoder(model, START, END, LONGEST, 1.0, ("logits", "attention", "writing"), log_mixture)
    return tokenizer.decode_batch(decode(source, beam_size).tolist())


def log_mixture(mail, outputs):
    """The log-probability (N, V) that each token of the vocabulary comes next, generated or copied."""
    probability = tf.nn.softmax(outputs["logits"][:, 0])
    if "writing" in outputs:
        places = tf.stack([tf.cumsum(tf.ones_like(mail), exclusive=True), mail], axis=-1)  # (N, S, 2): row and token
        writing = tf.sigmoid(outputs["writing"][:, 0])  # (N, 1)
        copied = (1 - writing) * outputs["attention"][1][:, 0]  # (N, S)
        probability = tf.tensor_scatter_nd_add(writing * probability, places, copied)
    return tf.math.log(probability + 1e-9)


def assets(hp):
    """The tokenizer, as `tokenizers.Tokenizer.from_file` reads it, and how many tokens of an email are read."""
    tokenizer = train_tokenizer(hp["examples"], hp["vocabulary_size"])
    return {"vocabulary.json": tokenizer.to_str(pretty=True), "length.txt": str(hp["length"])}


def show(model, hp):
    """Where each subword of a subject line comes from: the vocabulary or a place in the email."""
    mails, subjects = zip(*sorted(zip(*read(hp["examples"], "validation")), key=lambda pair: len(pair[0]))[:10])
    written = predict(model, assets(hp), mails)
    samples = map("mail     {}\nsubject  {}\nwritten  {}".format, mails, subjects, written)
    # About half of the words of this subject line are in the email.
    pair = min(zip(mails, written), key=lambda pair: abs(share_from_mail(pair[1:], pair[:1]) - 0.5))
    mail, subject = (train_tokenizer(hp["examples"], hp["vocabulary_size"]).encode(text) for text in pair)
    outputs = {layer.name: layer.output for layer in model.layers if layer.name in ("attention", "writing")}
    found = keras.Model(model.inputs[:2], outputs)([tf.constant([mail.ids]), tf.constant([[START, *subject.ids]])])
    attention = found["attention"][1][0]  # (T, S)
    writing = tf.sigmoid(found["writing"][0]) if hp["copying"] else tf.ones_like(attention[:, :1])  # (T, 1)
    rows, columns = ([piece.removeprefix("▁") for piece in text.tokens] for text in (mail, subject))
    picture, axes = new(0.4 * len(columns) + 3.5, 0.2 * len(rows) + 1.5)
    origins = tf.concat([writing, (1 - writing) * attention], axis=1)
    heat_map(axes, tf.transpose(origins), ["(vocabulary)", *rows], [*columns, "end"])
    axes.tick_params(axis="x", rotation=90)
    axes.set(title="Where each subword comes from", xlabel="subject line", ylabel="email")
    picture.colorbar(axes.images[0], label="probability")
    return {"copied": picture, "subjects": "\n\n".join(samples)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
