"""An LSTM encoder-decoder learns to add three-digit numbers, reading and writing them digit by digit.

Result    exact match 0.9982 ± 0.0005 over 3 seeds, 1.7 minutes a run (1.1 of CPU) on 2 cores
Baseline  the answer of the training question that differs in the fewest characters
Published 99% exact match after 100 epochs of 50,000 sums, one layer of 128 units (keras-io, addition_rnn.py)
Paper     Sutskever, Vinyals and Le, Sequence to Sequence Learning with Neural Networks, 2014,
          https://arxiv.org/abs/1409.3215; one layer instead of four, and sums (Zaremba and Sutskever 2014) for French
Answers   Does one vector between encoder and decoder hold a whole question? How far does free running fall
          behind teacher forcing? Does it help to read the question backwards? Do carries make a sum hard?

    python -m recipes.seq2seq.addition
    python -m recipes.seq2seq.addition --set units=256 --seed 1
"""

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops
from sklearn import neighbors

from common.callbacks import OneCycle
from common.data import shuffle
from common.datasets import sums
from common.decoding import greedy
from common.plots import MUTED, heat_map, new, plain
from common.text import shift_right

PROMISE = {
    "figure": {"metric": "exact_match", "better": "higher"},
    "monitor": {"metric": "val_token_accuracy", "better": "higher"},
    "baseline": {"metric": "nearest_exact_match", "name": "answer of the most similar training question"},
    "published": {"value": 0.99, "source": "keras-io addition_rnn, 100 epochs"},
    "data": ["sums"],
}
TINY = {"examples": 200, "epochs": 2, "units": 32}
VARIANTS = {"question read forwards": {"reverse": False}}
SPLITS = {"train": "train", "validation": "validation", "test": "test"}

SYMBOLS = ["", "<start>", "<end>", *"0123456789+"]  # A symbol's token is its index; 0 is padding.
START, END = 1, 2
QUESTION_LENGTH, ANSWER_LENGTH = 7, 5  # "999+999", and "1998" with the end token.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 200, 50_000, default=50_000)  # Read from each split at most.
    hp.Int("epochs", 1, 60, default=8)
    hp.Int("batch_size", 32, 512, step=32, default=128)
    hp.Int("units", 32, 512, step=32, default=128)  # As published; the state is all that the decoder knows.
    hp.Boolean("reverse", default=True)  # Read the question backwards: its beginning is then nearest to the answer's.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=6e-3)  # The peak of the one-cycle schedule.
    hp.Float("clip_norm", 0.1, 10.0, sampling="log", default=1.0)
    return hp


def build_model(hp):
    """Encoder and decoder with teacher forcing: (question (B, 7), answer shifted right (B, T)) to logits (B, T, 14)."""
    question = keras.Input((None,), dtype="int32", name="question")
    shifted_answer = keras.Input((None,), dtype="int32", name="shifted_answer")
    units, symbols = hp["units"], len(SYMBOLS)
    unit_scale = keras.initializers.RandomNormal(stddev=1.0)

    question_vectors = layers.Embedding(symbols, units, unit_scale, name="question_embedding")(question)
    encoder = layers.LSTM(units, return_state=True, name="encoder")
    _, hidden_state, cell_state = encoder(question_vectors, mask=ops.not_equal(question, 0))  # Both (B, units).

    answer_vectors = layers.Embedding(symbols, units, unit_scale, name="answer_embedding")(shifted_answer)
    decoder = layers.LSTM(units, return_sequences=True, return_state=True, name="decoder")
    outputs, _, _ = decoder(answer_vectors, initial_state=[hidden_state, cell_state])  # (B, T, units)
    logits = layers.Dense(symbols, name="logits")(outputs)

    model = keras.Model([question, shifted_answer], logits, name="addition")
    model.compile(
        keras.optimizers.Adam(hp["learning_rate"], clipnorm=hp["clip_norm"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="mean_with_sample_weight"),
        weighted_metrics=[keras.metrics.SparseCategoricalAccuracy("token_accuracy")],
        steps_per_execution=16,
    )
    return model


def read(hp, split):
    """The split's questions and answers as lists of str."""
    pairs = tfds.load(sums.Builder.name, split=SPLITS[split]).take(hp["examples"]).as_numpy_iterator()
    questions, answers = zip(*((pair["question"].decode(), pair["answer"].decode()) for pair in pairs))
    return list(questions), list(answers)


def encode(texts, length):
    """Tokens of each text, padded on the right: (texts, length) int32."""
    tokens = {symbol: token for token, symbol in enumerate(SYMBOLS)}
    rows = [[tokens[symbol] for symbol in text] for text in texts]
    return np.array([row + [0] * (length - len(row)) for row in rows], dtype="int32")


def encode_questions(hp, questions):
    """The encoder's tokens: (questions, QUESTION_LENGTH), reversed before the padding is added."""
    return encode([question[::-1] if hp["reverse"] else question for question in questions], QUESTION_LENGTH)


def load_data(hp, split):
    """Batches of (question (B, 7), answer shifted right (B, 5)), answer (B, 5), weight (B, 5): 1 on real tokens."""
    questions, answers = read(hp, split)
    target = encode([[*answer, SYMBOLS[END]] for answer in answers], ANSWER_LENGTH)
    shifted, weight = shift_right(target, START)
    examples = tf.data.Dataset.from_tensor_slices(((encode_questions(hp, questions), shifted), target, weight))
    if split == "train":
        examples = shuffle(examples)
    return examples.batch(hp["batch_size"]).prefetch(tf.data.AUTOTUNE)


def train(hp, seed, callbacks=()):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(warmup=0.2), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """The share of test questions whose whole answer is right in free running, and the baseline's."""
    questions, answers = read(hp, "test")
    teacher_forced = model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)
    return {
        "exact_match": share_right(add(model, hp, questions), answers),
        "nearest_exact_match": share_right(nearest_answers(hp, questions), answers),
        "teacher_forced_token_accuracy": teacher_forced["token_accuracy"],
    }


def share_right(given, answers):
    """The share of answers that are right to the last digit."""
    return float(np.mean([one == other for one, other in zip(given, answers, strict=True)]))


def nearest_answers(hp, questions):
    """The baseline: for each question the answer of the training question that differs in the fewest characters."""
    known, answers = read(hp, "train")
    nearest = neighbors.NearestNeighbors(n_neighbors=1, metric="hamming", algorithm="brute")
    indices = nearest.fit(encode(known, QUESTION_LENGTH)).kneighbors(encode(questions, QUESTION_LENGTH))[1]
    return [answers[index] for index in indices[:, 0]]


def add(model, hp, questions):
    """Answers questions such as "535+61", the model reading its own digits: a list of str."""
    decoder, logits = model.get_layer("decoder"), model.get_layer("logits")
    embedding = model.get_layer("answer_embedding")
    encoder = keras.Model(model.inputs[0], model.get_layer("encoder").output[1:])

    def step(tokens, states):
        output, *states = decoder(embedding(tokens[:, None]), initial_state=states)
        return tf.nn.log_softmax(logits(output)[:, 0]), states

    states = encoder(encode_questions(hp, questions))
    written = greedy(step, tf.fill(len(questions), START), states, ANSWER_LENGTH, END).numpy()
    return ["".join(SYMBOLS[token] for token in row if token > END) for row in written]


def carries(question):
    """How many carries the sum takes on paper."""
    first, second = map(int, question.split("+"))
    return sum((first % 10**place + second % 10**place) >= 10**place for place in (1, 2, 3))


def show(model, hp):
    """Wrong answers by the number of carries, and the decoder's probabilities at every digit of one sum."""
    questions, answers = read(hp, "validation")
    given = add(model, hp, questions)
    picture, (left, right) = new(11, 4, columns=2, width_ratios=[2, 3])
    groups = [[index for index, question in enumerate(questions) if carries(question) == n] for n in range(4)]
    wrong = [sum(given[index] != answers[index] for index in group) for group in groups]
    bars = plain(left).bar(
        range(4), [1000 * count / max(1, len(group)) for count, group in zip(wrong, groups)], color=MUTED
    )
    left.bar_label(bars, [f"{count} of {len(group):,}" for count, group in zip(wrong, groups)])
    left.set(xlabel="carries in the sum", ylabel="wrong answers in a thousand, validation", xticks=range(4))

    hardest = next(iter(np.flatnonzero([one != other for one, other in zip(given, answers)])), 0)
    question, answer = questions[hardest], answers[hardest]
    shifted = encode([[SYMBOLS[START], *answer]], len(answer) + 1)
    logits = model([encode_questions(hp, [question]), shifted], training=False)
    probabilities = ops.convert_to_numpy(ops.softmax(logits))[0]  # (digits of the answer and the end, 14)
    shown = [token for token in range(END, len(SYMBOLS)) if SYMBOLS[token] != "+"]
    names = [SYMBOLS[token].strip("<>") for token in shown]
    heat_map(right, probabilities[:, shown].T, rows=names, columns=[*answer, "end"], colours="Blues")
    right.set(
        title=f"{question} = {answer}, answered {given[hardest]}",
        xlabel="position in the right answer, which the decoder reads",
        ylabel="digit, darker = more probable",
    )
    samples = [f"{question} = {answer}" for question, answer in zip(questions[:8], given)]
    return {"digits": picture, "samples": "\n".join(samples)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
