"""An encoder-decoder that can copy from what it reads writes the subject lines of the Enron mails in aeslc.

Result    rouge l beam 26.3 with one seed, 32.2 minutes a run (26.4 of CPU) on 1 core
Baseline  lead: the mail's first sentence
Anchor    23.44 ROUGE-L: extractor and abstractor trained by reinforcement (Zhang and Tetreault 2019,
          https://arxiv.org/abs/1906.03497), with pretrained word vectors; PEGASUS, pretrained on web pages, has 36.8
Paper     See, Liu and Manning, Get To The Point: Summarization with Pointer-Generator Networks, 2017,
          https://arxiv.org/abs/1704.04368; lower case, as there, but GRUs for LSTMs, pieces of words for words, so
          that what is copied needs no vocabulary of its own, and no coverage, since a subject line is too short to
          repeat itself
Answers   How much of a subject line is copied from the mail? What is copying worth? And beam search?

    python -m recipes.seq2seq.summarization
    python -m recipes.seq2seq.summarization --set copying=False --seed 1
"""

import functools
import math

import keras
import numpy as np
import tensorflow as tf
import tokenizers
from keras import ops
from matplotlib import colors
from rouge_score import rouge_scorer

from common import data, decoding, plots, runner, training

PROMISE = {
    "figure": {"metric": "rouge_l_beam", "better": "higher"},
    "monitor": {"metric": "val_nats", "better": "lower"},
    "baseline": {"metric": "lead_rouge_l", "name": "the mail's first sentence"},
    "anchor": {"value": 23.44, "source": "Zhang and Tetreault 2019, their own system"},
    "data": ["aeslc"],
    "tolerance": 1.0,  # For `verify`, since one seed tells no spread.
}
TINY = {"examples": 48, "epochs": 2, "units": 32, "vocabulary_size": 500, "length": 40}
VARIANTS = {"without copying": {"copying": False}}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

START, END = 1, 2  # 0 is padding, 3 a character that training never showed.
# Tokens at which the next bucket begins: a bucket for every combination of a mail's length and a subject's.
BUCKETS = [[40, 55, 70, 85, 100], [6, 9, 13]]
LONGEST = 24  # Tokens that a subject line may have.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 48, 14_436, default=14_436)  # Read from each split at most.
    hp.Int("epochs", 1, 40, default=10)
    hp.Int("batch_size", 16, 256, step=16, default=32)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=6_000)  # Pieces of words, for mails and subject lines.
    hp.Int("length", 20, 400, step=10, default=100)  # Tokens read of a mail; its point comes early.
    hp.Int("units", 32, 1024, step=32, default=192)
    hp.Boolean("copying", default=True)  # False writes from the vocabulary alone.
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.4)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=2e-3)  # The peak, after the warm-up.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


def read(hp, split):
    """The split's mails and subject lines as lists of str, every run of white space a single space."""
    pairs = list(data.load("aeslc", SPLITS[split], hp["examples"]).as_numpy_iterator())
    return tuple([" ".join(pair[key].decode().split()) for pair in pairs] for key in ("email_body", "subject_line"))


@functools.cache
def byte_pair_encoding(texts, vocabulary_size):
    """One vocabulary of pieces of words (Sennrich et al. 2016) for mails and subject lines, so that one can copy."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unknown>"))
    tokenizer.normalizer = tokenizers.normalizers.Lowercase()  # Few mails: "Meeting" should help with "MEETING".
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = ["<padding>", "<start>", "<end>", "<unknown>"]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(hp):
    """The tokenizer of the training mails and subject lines."""
    mails, subjects = read(hp, "train")
    return byte_pair_encoding((*mails, *subjects), hp["vocabulary_size"])


def tokens_of(tokenizer, texts, length):
    """Up to `length` tokens of each text, ragged: (texts, None) int32. An empty text is one unknown character."""
    return tf.ragged.constant([line.ids[:length] or [3] for line in tokenizer.encode_batch(texts)], dtype=tf.int32)


def load_data(hp, split):
    """Batches of (mail (B, S), subject shifted right (B, T), subject (B, T)), subject again, weight (B, T).

    The weights are 0 on padding and sum up to about 1. A batch has mails of like length and subjects of like length.
    """
    tokenizer = train_tokenizer(hp)
    mails, subjects = read(hp, split)
    mails = tokens_of(tokenizer, mails, hp["length"])
    subjects = tf.concat([tokens_of(tokenizer, subjects, LONGEST - 1), tf.fill((len(subjects), 1), END)], axis=1)
    examples = tf.data.Dataset.from_tensor_slices((mails, subjects))
    examples = examples.map(lambda source, target: (tf.identity(source), tf.identity(target))).cache()
    # One for all batches: with a batch's own, the tokens of short subjects would weigh more than those of long ones.
    tokens_of_a_batch = hp["batch_size"] * np.mean(subjects.row_lengths())

    def shift(source, target):
        inputs = tf.concat([tf.fill((tf.shape(target)[0], 1), START), target[:, :-1]], axis=1)
        real = target != 0
        return (source, tf.where(real, inputs, 0), target), target, tf.cast(real, tf.float32) / tokens_of_a_batch

    lengths = [mails.row_lengths(), subjects.row_lengths()]
    batches = data.bucket(examples, lengths, BUCKETS, hp["batch_size"], split == "train")
    return batches.map(shift).prefetch(tf.data.AUTOTUNE)


def encode(layer, source):
    """Reads the mail (B, S).

    layer: from a name to the layer.

    Returns:
        memory (B, S, units) for the attention, its mask (B, S), and the decoder's two first states (B, units).
    """
    mask = ops.not_equal(source, 0)
    vectors = layer("dropout")(layer("unit_scale")(layer("embedding")(source)))
    outputs, forward_state, backward_state = layer("encoder")(vectors, mask=mask)  # (B, S, 2 units)
    first_state = layer("first_state")(ops.concatenate([forward_state, backward_state], axis=-1))
    return layer("memory")(layer("dropout")(outputs)), mask, [first_state, first_state]


def decode(layer, target, states, memory, mask):
    """Writes on after the subject's tokens (B, T), from the states before them.

    Returns:
        what was seen (B, T, 2 units), logits (B, T, V) from it, what the attention looks at and would copy (B, T, S),
        and the states after the last token.
    """
    vectors = layer("dropout")(layer("unit_scale")(layer("embedding")(target)))
    query, query_state = layer("query")(vectors, initial_state=states[0])  # (B, T, units)
    context, attention = layer("attention")([query, memory], mask=[None, mask], return_attention_scores=True)
    answer, answer_state = layer("answer")(ops.concatenate([query, context], axis=-1), initial_state=states[1])
    seen = layer("dropout")(ops.concatenate([answer, context], axis=-1))
    logits = layer("embedding")(layer("dropout")(layer("output")(seen)), reverse=True)
    return seen, logits, attention, [query_state, answer_state]


class Surprise(keras.losses.Loss):
    """-log p of every token, of a model whose output is the log p (B, T) of its last input."""

    def call(self, y_true, y_pred):
        return -y_pred


def build_model(hp):
    """Teacher forcing: (mail (B, S), subject shifted right (B, T), subject (B, T)) to the subject's log p (B, T).

    A token's probability is that of writing times that of the word, plus that of copying times the attention on all
    places of the mail where the token stands (See et al. 2017, eq. 9). That sum needs the token, hence the third input.
    """
    units, layers = hp["units"], keras.layers
    recurrent = {"return_sequences": True, "return_state": True}
    # One matrix for mail, subject and softmax (Press and Wolf 2016): small for the logits, unit_scale undoes it.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    parts = [
        layers.ReversibleEmbedding(hp["vocabulary_size"], units, embeddings_initializer=small, name="embedding"),
        layers.Rescaling(units**0.5, name="unit_scale"),
        layers.Dropout(hp["dropout"], name="dropout"),
        layers.Bidirectional(layers.GRU(units, **recurrent), name="encoder"),
        layers.Dense(units, name="memory"),
        layers.Dense(units, activation="tanh", name="first_state"),
        layers.GRU(units, **recurrent, name="query"),
        layers.Attention(use_scale=True, name="attention"),
        layers.GRU(units, **recurrent, name="answer"),
        layers.Dense(units, name="output"),
        layers.Dense(1, name="writing"),
    ]
    layer = {part.name: part for part in parts}.get
    source = keras.Input((None,), dtype="int32", name="mail")
    shifted = keras.Input((None,), dtype="int32", name="shifted_subject")
    target = keras.Input((None,), dtype="int32", name="subject")
    memory, mask, states = encode(layer, source)
    seen, logits, attention, _ = decode(layer, shifted, states, memory, mask)
    log_probability = ops.take_along_axis(ops.log_softmax(logits), target[..., None], axis=-1)[..., 0]  # (B, T)
    if hp["copying"]:
        same = ops.cast(ops.equal(target[:, :, None], source[:, None, :]), "float32")  # (B, T, S)
        copied = ops.log(ops.sum(attention * same, axis=-1) + 1e-9)
        writing = layer("writing")(seen)[..., 0]  # the logit of writing rather than copying
        log_probability = ops.logaddexp(ops.log_sigmoid(writing) + log_probability, ops.log_sigmoid(-writing) + copied)
    model = keras.Model([source, shifted, target], log_probability, name="summarization")

    buckets = math.prod(len(edges) + 1 for edges in BUCKETS)
    steps = hp["epochs"] * (hp["examples"] // hp["batch_size"] + buckets)  # Every bucket ends in a short batch.
    schedule = keras.optimizers.schedules.CosineDecay(
        hp["learning_rate"] / 10, steps, warmup_target=hp["learning_rate"], warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        Surprise(reduction="sum"),
        # A mean over tokens: the printed loss is one over batches, whose numbers of tokens differ.
        weighted_metrics=[keras.metrics.MeanMetricWrapper(Surprise(reduction=None), name="nats")],
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
        callbacks=callbacks("summarization", hp["examples"]),
        verbose=0,
        shuffle=False,
    )
    return model


def reader(model, source):
    """What the decoder needs of mails (B, S): its first states, and `step` over all words, written or copied.

    `step(tokens, states)` returns log p (N, V) and the states, for `decoding`; N may be a multiple of B.
    """
    layer = model.get_layer
    copying = "writing" in [part.name for part in model.layers]
    memory, mask, states = encode(layer, source)

    def step(tokens, states):
        beams = tokens.shape[0] // source.shape[0]
        repeated = [tf.repeat(tensor, beams, axis=0) for tensor in (memory, mask, source)]
        seen, logits, attention, states = decode(layer, tokens[:, None], states, *repeated[:2])
        probability = tf.nn.softmax(logits[:, 0])
        if copying:
            writing = tf.sigmoid(layer("writing")(seen)[:, 0])  # (N, 1)
            rows = tf.broadcast_to(tf.range(tokens.shape[0])[:, None], tf.shape(repeated[2]))
            places = tf.stack([rows, repeated[2]], axis=-1)  # (N, S, 2)
            probability = tf.tensor_scatter_nd_add(writing * probability, places, (1 - writing) * attention[:, 0])
        return tf.math.log(probability + 1e-9), states

    return states, step


def summarize(model, tokenizer, mails, length, beam_size=5, alpha=1.0):
    """Returns a subject line for each of `mails`.

    tokenizer: `tokenizers.Tokenizer.from_file` of vocabulary.json.
    length: tokens read of a mail, as in training.
    beam_size: 1 decodes greedily.
    alpha: length normalisation of the beam's scores, see `decoding.beam_search`.
    """
    source = tokens_of(tokenizer, [" ".join(mail.split()) for mail in mails], length).to_tensor()
    written = []
    for start in range(0, len(mails), 200):
        batch = source[start : start + 200]
        states, step = reader(model, batch)
        first = tf.fill(batch.shape[0], START)
        if beam_size == 1:
            written.append(decoding.greedy(step, first, states, LONGEST, END))
        else:
            written.append(decoding.beam_search(step, first, states, LONGEST, beam_size, END, alpha)[0][:, 0])
    return tokenizer.decode_batch(np.concatenate(written).tolist())


def rouge(written, references):
    """ROUGE-1, ROUGE-2 and ROUGE-L, F1 of stemmed words in percent, means over the texts: three floats."""
    names = ["rouge1", "rouge2", "rougeL"]
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(reference, text) for text, reference in zip(written, references, strict=True)]
    return [100 * float(np.mean([score[name].fmeasure for score in scores])) for name in names]


def first_sentence(mail):
    """The mail up to its first full stop, question or exclamation mark that ends a word."""
    words = mail.split()
    ends = [index for index, word in enumerate(words) if word[-1] in ".?!"]
    return " ".join(words[: ends[0] + 1] if ends else words)


def evaluate(model, hp):
    """ROUGE on test, greedy and with a beam, the lead's, and which share of the subjects' words stands in the mail."""
    mails, subjects = read(hp, "test")
    tokenizer = train_tokenizer(hp)
    beam = summarize(model, tokenizer, mails, hp["length"])
    greedy = summarize(model, tokenizer, mails, hp["length"], beam_size=1)
    rouge_1, rouge_2, rouge_l = rouge(beam, subjects)
    return {
        "rouge_l_beam": rouge_l,
        "rouge_1_beam": rouge_1,
        "rouge_2_beam": rouge_2,
        "rouge_l_greedy": rouge(greedy, subjects)[2],
        "lead_rouge_l": rouge([first_sentence(mail) for mail in mails], subjects)[2],
        "nats_per_token": model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["nats"],
        "words_from_mail_written": share_from_mail(beam, mails),
        "words_from_mail_in_references": share_from_mail(subjects, mails),
    }


def share_from_mail(subjects, mails):
    """Which share of the subjects' words stands in their mails, in lower case."""
    found = [
        word in mail.lower().split()
        for subject, mail in zip(subjects, mails, strict=True)
        for word in subject.lower().split()
    ]
    return float(np.mean(found)) if found else 0.0


def assets(hp):
    """The vocabulary and its merges, as `tokenizers.Tokenizer.from_file` reads them."""
    return {"vocabulary.json": train_tokenizer(hp).to_str(pretty=True)}


def where_copied(model, source, subject):
    """How likely each token of a subject (T) is to be copied from each place of its mail (S), (T, S)."""
    layer = model.get_layer
    memory, mask, states = encode(layer, tf.constant([source]))
    seen, _, attention, _ = decode(layer, tf.constant([[START, *subject[:-1]]]), states, memory, mask)
    copying = tf.sigmoid(-layer("writing")(seen)) if "writing" in [part.name for part in model.layers] else 1.0
    return (copying * attention)[0].numpy()


def draw_copying(model, tokenizer, mail, subject, length, columns=100):
    """A subject and its mail: the subject's pieces as dark as they were copied, the mail's as they were copied from."""
    source, target = tokenizer.encode(mail), tokenizer.encode(subject)
    copied = where_copied(model, source.ids[:length], target.ids)
    lines = [[]]  # of (column, piece, weight); one empty line between subject and mail
    for encoding, weights in ((target, copied.sum(axis=1)), (source, copied.max(axis=0))):
        column = 0
        for piece, weight in zip(encoding.tokens[:length], weights, strict=True):
            if column + len(piece) > columns:
                lines.append([])
                column = 0
            lines[-1].append((column, piece.replace("▁", " "), float(weight)))
            column += len(piece)
        lines += [[], []]
    # A monospaced character of 9 points is 0.6 of that wide.
    picture, axes = plots.new(columns * 9 * 0.6 / 72 + 0.3, len(lines) * 0.22)
    axes.set(xlim=(0, columns), ylim=(len(lines) - 2.5, -1))
    axes.set_axis_off()
    for row, line in enumerate(lines):
        for column, piece, weight in line:
            box = {"facecolor": (*colors.to_rgb(plots.VALIDATION), min(1.0, weight)), "edgecolor": "none", "pad": 1.0}
            axes.text(column, row, piece, family="monospace", fontsize=9, va="center", bbox=box)
    return picture


def show(model, hp):
    """Ten validation mails' subject lines beside their own, and where the words of one were copied from."""
    tokenizer = train_tokenizer(hp)
    mails, subjects = (texts[:10] for texts in read(hp, "validation"))
    written = summarize(model, tokenizer, mails, hp["length"])
    samples = [
        f"mail     {mail[:300]}\nsubject  {subject}\nwritten  {line}"
        for mail, subject, line in zip(mails, subjects, written, strict=True)
    ]
    written = [line or subject for line, subject in zip(written, subjects)]

    def copied(index):
        source, target = tokenizer.encode(mails[index]).ids[: hp["length"]], tokenizer.encode(written[index]).ids
        return where_copied(model, source, target).sum()

    index = max(range(len(mails)), key=copied)  # The one with the most to see.
    return {
        "copied": draw_copying(model, tokenizer, mails[index], written[index], hp["length"]),
        "subjects": "\n\n".join(samples),
    }


if __name__ == "__main__":
    runner.run(__spec__.name)
