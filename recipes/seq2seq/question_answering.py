"""A memory network attends to the sentences of a story, hop by hop, and answers a question on it: bAbI tasks 1 to 5.

Result    accuracy 0.9405 ± 0.0044 over 3 seeds, 2.9 minutes a run (1.8 of CPU) on 1 core
Baseline  the commonest answer of each task; beside it, the last word of the story that can be an answer
Published 0.8778, memory networks trained on 1,000 questions of each of 20 tasks (table 1 of the paper, joint, noise)
Paper     Sukhbaatar, Szlam, Weston, Fergus: End-To-End Memory Networks, 2015, https://arxiv.org/abs/1503.08895. There
          the best of ten runs counts, here each; training questions also appear with other people, things and places.
Answers   Which sentences matter, and does the network attend to them? How far does an LSTM get that has to remember the
          story instead? What are the other names worth? (See `--variants` for both.)

    python -m recipes.seq2seq.question_answering
    python -m recipes.seq2seq.question_answering --set reader=lstm epochs=1 renamings=10
"""

import collections
import functools
import re

import keras
import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from keras import layers, ops

from common.callbacks import OneCycle
from common.data import bucket
from common.datasets import babi
from common.plots import heat_map, new

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "commonest_accuracy", "name": "the commonest answer of each task"},
    "published": {"value": 0.8778, "source": "memory networks, Sukhbaatar et al. 2015, table 1, joint"},
    "data": ["babi"],
}
TINY = {"examples": 51, "epochs": 2, "renamings": 2, "sentences": 20, "units": 16}
VARIANTS = {
    "LSTM reader": {"reader": "lstm", "epochs": 1, "renamings": 10},
    "no other names": {"renamings": 1, "epochs": 75},
}
PINNED = ("renamings", "reader")
# The tasks take turns in the data, so both parts have the same share of each task; no story is in both.
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}

# A story stays true when two names from one row trade places throughout it, its question and its answer.
EXCHANGEABLE = [
    ["bill", "daniel", "fred", "jeff", "john", "mary", "sandra"],
    ["apple", "cake", "football", "milk"],
    ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"],
]
VOCABULARY_SIZE = 53  # The 51 words of the five tasks from 2 on; 0 is padding, 1 any other word.
SENTENCE_LENGTH = 7  # The number of words in the longest.
BUCKETS = [3, 7, 12, 20, 32, 56]  # The length of a story, in sentences, at which a bucket begins.
PUBLISHED = {"memory network, joint": (100, 88.6, 78.1, 86.6, 85.6), "LSTM, Weston et al. 2015": (50, 20, 20, 61, 70)}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 50, 5_000, default=5_000)  # Questions read from each split at most.
    hp.Int("epochs", 1, 100, default=3)
    hp.Int("renamings", 1, 50, default=25)  # Copies of each training question, all but the first renamed.
    hp.Int("batch_size", 16, 128, step=16, default=32)
    hp.Choice("reader", ["memory", "lstm"], default="memory")
    hp.Int("sentences", 10, 250, default=128)  # Of a longer story, the last; 3% of task 3's stories are longer.
    hp.Int("hops", 1, 5, default=3)  # Rounds of attention: the answers of task 3 rest on three sentences.
    hp.Int("units", 16, 256, default=64)  # The paper has 50 for all tasks together.
    hp.Float("dropout", 0.0, 0.5, default=0.0)  # Of the attention's weights.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=3e-3)  # The peak of the one-cycle schedule.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-3)
    return hp


def build_model(hp):
    """Story (B, S, 7) and question (B, 7) to logits of the answer's word (B, VOCABULARY_SIZE)."""
    story = keras.Input((None, SENTENCE_LENGTH), dtype="int32", name="story")
    question = keras.Input((None,), dtype="int32", name="question")
    reader = {"memory": attend, "lstm": remember}[hp["reader"]]
    logits = layers.Dense(VOCABULARY_SIZE, name="answer")(reader(hp, story, question))
    model = keras.Model([story, question], logits, name="question_answering")
    optimizer = keras.optimizers.AdamW(hp["learning_rate"], weight_decay=hp["weight_decay"], clipnorm=1.0)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], steps_per_execution=16)
    return model


def attend(hp, story, question):
    """Attends to the story by the question, adds the result to the question, and repeats (section 2.2): (B, units)."""

    def vectors_of(what, number):
        return layers.Embedding(number, hp["units"], keras.initializers.RandomNormal(stddev=0.1), name=what)

    real = ops.not_equal(story[:, :, 0], 0)  # (B, S)
    told = ops.cumsum(ops.cast(real, "int32"), axis=1)
    ago = ops.max(told, axis=1, keepdims=True) - told  # (B, S), 0 for the last sentence.
    # What a sentence says, and how long ago it was told.
    keys = sentence_vectors(story, vectors_of("key_words", VOCABULARY_SIZE))  # (B, S, units)
    keys = keys + vectors_of("key_times", hp["sentences"])(ago)
    values = sentence_vectors(story, vectors_of("value_words", VOCABULARY_SIZE))
    values = values + vectors_of("value_times", hp["sentences"])(ago)
    query = sentence_vectors(question, vectors_of("question_words", VOCABULARY_SIZE))  # (B, units)
    between = layers.Dense(hp["units"], use_bias=False, name="between_hops")  # The hops share all weights.
    for hop in range(1, hp["hops"] + 1):
        match = ops.sum(query[:, None] * keys, axis=-1)
        weights = layers.Dropout(hp["dropout"])(layers.Softmax(name=f"hop_{hop}")(match, mask=real))  # (B, S)
        query = between(query) + ops.sum(weights[:, :, None] * values, axis=1)
    return query


def sentence_vectors(tokens, embedding):
    """Sums the vectors of each sentence's words, weighted by position (section 4.1): (..., words) to (..., units)."""
    real = ops.cast(ops.not_equal(tokens, 0), "float32")
    length = ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1.0)
    position = ops.expand_dims(ops.cumsum(real, axis=-1) / length, -1)  # (..., words, 1), 1 at the last word.
    unit = ops.arange(1, embedding.output_dim + 1, dtype="float32") / embedding.output_dim
    # Falling along the sentence for some units and rising for others, so that the sum preserves word order.
    weights = (1.0 - position) - unit * (1.0 - 2.0 * position)  # (..., words, units)
    return ops.sum(embedding(tokens) * weights * ops.expand_dims(real, -1), axis=-2)


def remember(hp, story, question):
    """Reads the story word by word, then the question, and keeps what an LSTM can: (B, units)."""
    tokens = ops.concatenate([layers.Reshape((-1,))(story), question], axis=1)  # (B, 7 S + 7)
    vectors = layers.Embedding(VOCABULARY_SIZE, hp["units"], name="words")(tokens)
    return layers.LSTM(hp["units"])(vectors, mask=ops.not_equal(tokens, 0))


@functools.cache
def read(split, examples):
    """The split's questions: a list of {"task", "story" (list of str), "question", "answer", "supporting"}."""
    questions = list(tfds.load(babi.Builder.name, split=SPLITS[split]).take(examples).as_numpy_iterator())
    for each in questions:
        each["story"] = [sentence.decode() for sentence in each["story"]]
        each["question"], each["answer"] = each["question"].decode(), each["answer"].decode().lower()
    return questions


def vocabulary(hp):
    """All words of the training questions and their stories, a list of str: word i has the number i + 2."""
    questions = read("train", hp["examples"])
    texts = {text for each in questions for text in (*each["story"], each["question"], each["answer"])}
    return sorted(set(re.findall("[a-z]+", " ".join(texts).lower())))


def encode(texts, words):
    """Numbers of the words of each text, padded on the right: (texts, SENTENCE_LENGTH) int32."""
    return np.array(layers.TextVectorization(output_sequence_length=SENTENCE_LENGTH, vocabulary=words)(texts), "int32")


def inputs_of(hp, questions, words):
    """The model's inputs, not yet batched: stories (N, sentences of each, 7), ragged, and questions (N, 7)."""
    stories = [each["story"][-hp["sentences"] :] for each in questions]
    tokens = encode([sentence for story in stories for sentence in story], words)
    stories = tf.RaggedTensor.from_row_lengths(tokens, [len(story) for story in stories])
    return stories, encode([each["question"] for each in questions], words)


def load_data(hp, split):
    """Batches of (story (B, S, 7), question (B, 7)) and the answer's word (B,); stories of similar length together."""
    questions, words = read(split, hp["examples"]), vocabulary(hp)
    stories, asked = inputs_of(hp, questions, words)
    answers = encode([each["answer"] for each in questions], words)[:, 0]
    if split == "train":
        stories, asked, answers = rename(stories, asked, answers, words, hp["renamings"])
    examples, lengths = ((stories, asked), answers), stories.row_lengths()
    return bucket(examples, lengths, BUCKETS, hp["batch_size"], split == "train").prefetch(2)


def rename(stories, questions, answers, words, times):
    """The examples as they are, and `times` - 1 copies in which people, things and places trade names at random."""
    new_words = np.tile(np.arange(VOCABULARY_SIZE, dtype="int32"), (times * len(answers), 1))  # By example, old word.
    generator = np.random.default_rng(0)
    for names in EXCHANGEABLE:
        numbers = [index for index, word in enumerate(words, start=2) if word in names]
        new_words[len(answers) :, numbers] = generator.permuted(new_words[len(answers) :, numbers], axis=1)
    stories = tf.concat([stories] * times, axis=0)
    sentences = new_words[stories.value_rowids().numpy()[:, None], stories.values.numpy()]
    texts = np.take_along_axis(new_words, np.tile(np.column_stack([questions, answers]), (times, 1)), axis=1)
    return stories.with_values(sentences), texts[:, :-1], texts[:, -1]


def train(hp, seed, callbacks=()):
    """Trains from `seed` on all tasks at once and returns the model."""
    keras.utils.set_random_seed(seed)
    model = build_model(hp)
    model.fit(
        load_data(hp, "train"),
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=[OneCycle(), *callbacks],
        shuffle=False,  # `load_data` did.
    )
    return model


def evaluate(model, hp):
    """Accuracy on the test questions, per task and mean, the baselines', and how many facts were attended to."""
    questions = read("test", hp["examples"])
    answers, looks = answer(model, hp, questions, vocabulary(hp))
    tasks, commonest, latest = (accuracies(given, questions) for given in (answers, *baselines(hp, questions)))
    results = {"accuracy": np.mean(tasks), "commonest_accuracy": np.mean(commonest), "latest_accuracy": np.mean(latest)}
    results |= {f"accuracy_task_{task}": share for task, share in enumerate(tasks, start=1)}
    if hp["reader"] == "memory":  # The share of the facts to which some hop attends most.
        found = [np.isin(each["supporting"], np.argmax(look, axis=1)).mean() for each, look in zip(questions, looks)]
        results["facts_looked_at"] = np.mean(found)
    return results


def accuracies(given, questions):
    """The share of right answers in each of tasks 1 to 5, a list."""
    pairs = [(each["task"], word == each["answer"]) for word, each in zip(given, questions, strict=True)]
    return [np.mean([right for other, right in pairs if other == task]) for task in range(1, 6)]


def baselines(hp, questions):
    """Both baselines' answers: the task's commonest, and the story's last possible one that the question lacks."""
    counts = collections.defaultdict(collections.Counter)
    for each in read("train", hp["examples"]):
        counts[each["task"]][each["answer"]] += 1
    latest = []
    for each in questions:
        possible = counts[each["task"]].keys() - re.findall("[a-z]+", each["question"].lower())
        backwards = reversed(re.findall("[a-z]+", " ".join(each["story"]).lower()))
        latest.append(next((word for word in backwards if word in possible), None))
    return [counts[each["task"]].most_common(1)[0][0] for each in questions], latest


def answer(model, hp, questions, words):
    """Answers each of `questions`, {"story": sentences, "question"}, in a word; words: the lines of vocabulary.txt.

    Also returns what the model attended to, a list of (hops, sentences or more): each hop's weights add up to 1.
    """
    outputs = {layer.name: layer.output for layer in model.layers if layer.name.startswith(("answer", "hop_"))}
    stories, asked = inputs_of(hp, questions, words)
    hops = keras.Model(model.inputs, outputs).predict((stories.to_tensor(), asked), batch_size=250, verbose=0)
    logits = hops.pop("answer")
    unread = [max(0, len(each["story"]) - hp["sentences"]) for each in questions]
    looks = [[np.pad(hop[index], (skipped, 0)) for hop in hops.values()] for index, skipped in enumerate(unread)]
    return [words[index] for index in logits[:, 2 : len(words) + 2].argmax(axis=1)], looks


def assets(hp):
    """The vocabulary, one word per line, as `answer` expects it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp))}


def show(model, hp):
    """Validation accuracy beside published figures, and what the model attended to in stories of three tasks."""
    questions = read("validation", hp["examples"])
    answers, looks = answer(model, hp, questions, vocabulary(hp))
    table = {"here, validation": [100 * share for share in accuracies(answers, questions)], **PUBLISHED}
    lines = [f"{name:26}" + "".join(f"{share:8.1f}" for share in shares) for name, shares in table.items()]
    shown = {"answers": "\n".join(["accuracy on tasks 1 to 5, in percent", *lines])}
    if hp["reader"] == "memory":
        shown["attention"], axes = new(18.6, 5.0, columns=3)
        for ax, task in zip(axes, (2, 3, 5)):  # An answer rests on several facts, or a sentence names three things.
            of_task = [one for one in zip(questions, answers, looks) if one[0]["task"] == task]
            each, given, look = min(of_task, key=lambda one: abs(len(one[0]["story"]) - 14))
            weights = np.transpose(look)[: len(each["story"])]
            heat_map(ax, weights, each["story"], [f"hop {hop}" for hop in range(1, hp["hops"] + 1)])
            for fact in each["supporting"]:
                ax.get_yticklabels()[fact].set_fontweight("bold")
            ax.set_title(f"{each['question']} {given} (right: {each['answer']})", loc="right")
    return shown


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
