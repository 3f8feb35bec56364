"""A memory network looks at the sentences of a story, hop by hop, and answers a question on it: bAbI tasks 1 to 5.

Result    accuracy 0.9405 ± 0.0044 over 3 seeds, 2.9 minutes a run (1.8 of CPU) on 1 core
Baseline  the commonest answer of each task; beside it, the last word of the story that can be an answer
Anchor    0.8778, the mean of 100, 88.6, 78.1, 86.6 and 85.6%: memory networks trained on 1,000 questions of each of all
          20 tasks (table 1 of the paper, joint training with noise)
Paper     Sukhbaatar, Szlam, Weston, Fergus: End-To-End Memory Networks, 2015, https://arxiv.org/abs/1503.08895. There
          the best of ten runs counts, and training starts without the softmax; here every seed counts, and a network
          sees each training question with other names of people, things and places, too.
Answers   Where does a reader have to look, and does it look there? How far does an LSTM get that has to remember the
          story instead? What are the other names worth (`--variants`, both)?

    python -m recipes.seq2seq.question_answering
    python -m recipes.seq2seq.question_answering --set reader=lstm epochs=1 renamings=10
"""

import collections
import re

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

from common import data, plots, runner, training
from common.datasets import babi

PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "commonest_accuracy", "name": "the commonest answer of each task"},
    "anchor": {"value": 0.8778, "source": "memory networks, Sukhbaatar et al. 2015, table 1, joint"},
    "data": ["babi"],
}
TINY = {"examples": 50, "epochs": 2, "units": 16, "renamings": 2}
VARIANTS = {
    "LSTM reader": {"reader": "lstm", "epochs": 1, "renamings": 10},
    "no other names": {"renamings": 1, "epochs": 75},
}
# The tasks take turns in the data, so that both parts hold all tasks alike; no story is in both.
SPLITS = {"train": "train[:90%]", "validation": "train[90%:]", "test": "test"}
TRAINING_QUESTIONS = 4_500

UNKNOWN = 1  # 0 is padding.
# A story stays true when two names of a row trade places in all of it, its question and its answer.
EXCHANGEABLE = [
    ["bill", "daniel", "fred", "jeff", "john", "mary", "sandra"],
    ["apple", "cake", "football", "milk"],
    ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"],
]
VOCABULARY_SIZE = 53  # The 51 words of the five tasks, and those two.
SENTENCE_LENGTH = 7  # The longest has so many words.
BUCKETS = [3, 7, 12, 20, 32, 56]  # Upper ends of a story's length, in sentences.
# Published accuracy of each task in percent, trained on 1,000 questions of it, or of each of 20 tasks (joint).
PUBLISHED = {
    "LSTM, Weston et al. 2015": (50, 20, 20, 61, 70),
    "GRU, keras babi_rnn.py": (52.1, 37.0, 20.5, 62.9, 61.9),
    "memory network, joint": (100, 88.6, 78.1, 86.6, 85.6),
}


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 50, 5_000, default=5_000)  # Questions read from each split at most.
    hp.Int("epochs", 1, 100, default=3)
    hp.Int("renamings", 1, 50, default=25)  # Each training question so often, but for the first time renamed.
    hp.Int("batch_size", 16, 128, step=16, default=32)
    hp.Choice("reader", ["memory", "lstm"], default="memory")
    hp.Int("sentences", 10, 250, default=128)  # Of a longer story the last; 3% of task 3's stories are longer.
    hp.Int("hops", 1, 5, default=3)  # Looks at the story: the answers of task 3 rest on three sentences.
    hp.Int("units", 16, 256, default=64)  # The paper has 50 for all tasks together.
    hp.Float("dropout", 0.0, 0.5, default=0.0)  # Of the attention's weights.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=3e-3)  # The peak, after a tenth of the steps.
    hp.Float("weight_decay", 1e-4, 1.0, sampling="log", default=1e-3)
    return hp


def split_words(text):
    """The words of a text in lower case, a list of str."""
    return re.findall("[a-z]+", text.lower())


def read(hp, split):
    """The split's questions: a list of {"task", "story" (list of str), "question", "answer", "supporting"}."""
    questions = list(data.load(babi.Builder, SPLITS[split], hp["examples"]).as_numpy_iterator())
    for each in questions:
        each["story"] = [sentence.decode() for sentence in each["story"]]
        each["question"], each["answer"] = each["question"].decode(), each["answer"].decode().lower()
    return questions


def vocabulary(hp):
    """All words of the training questions and their stories, a list of str: word i has the number i + 2."""
    found = set()
    for each in read(hp, "train"):
        found.update(split_words(" ".join([*each["story"], each["question"], each["answer"]])))
    return sorted(found)


def encode(texts, words):
    """Numbers of the words of each text, padded on the right: (texts, SENTENCE_LENGTH) int32."""
    number = {word: index for index, word in enumerate(words, start=2)}
    rows = [[number.get(word, UNKNOWN) for word in split_words(text)][:SENTENCE_LENGTH] for text in texts]
    return np.array([row + [0] * (SENTENCE_LENGTH - len(row)) for row in rows], "int32")


def inputs_of(hp, stories, questions, words):
    """The model's inputs, not yet batched: stories (N, sentences of each, 7), ragged, and questions (N, 7)."""
    stories = [story[-hp["sentences"] :] for story in stories]
    tokens = encode([sentence for story in stories for sentence in story], words)
    return tf.RaggedTensor.from_row_lengths(tokens, [len(story) for story in stories]), encode(questions, words)


def examples_of(hp):
    """Examples of an epoch."""
    return hp["renamings"] * min(hp["examples"], TRAINING_QUESTIONS)


def rename(stories, questions, answers, words, times):
    """The examples as they are, and `times` - 1 times with people, things and places that trade names at random."""
    stories = tf.concat([stories] * times, axis=0)
    renamed = np.arange(len(answers), times * len(answers))
    questions, answers = np.tile(questions, (times, 1)), np.tile(answers, times)
    new_words = np.tile(np.arange(VOCABULARY_SIZE, dtype="int32"), (len(answers), 1))  # Each example's own, by the old.
    generator = np.random.default_rng(0)
    for names in EXCHANGEABLE:
        numbers = [index for index, word in enumerate(words, start=2) if word in names]
        new_words[np.ix_(renamed, numbers)] = generator.permuted(new_words[np.ix_(renamed, numbers)], axis=1)
    examples = np.arange(len(answers))
    sentences = new_words[stories.value_rowids().numpy()[:, None], stories.values.numpy()]
    return stories.with_values(sentences), new_words[examples[:, None], questions], new_words[examples, answers]


def load_data(hp, split):
    """Batches of (story (B, S, 7), question (B, 7)) and the answer's word (B,); stories of like length together."""
    questions, words = read(hp, split), vocabulary(hp)
    stories, asked = inputs_of(
        hp, [each["story"] for each in questions], [each["question"] for each in questions], words
    )
    answers = encode([each["answer"] for each in questions], words)[:, 0]
    if split == "train":
        stories, asked, answers = rename(stories, asked, answers, words, hp["renamings"])
    examples = tf.data.Dataset.from_tensor_slices((stories, asked, answers))
    examples = examples.map(lambda story, question, answer: ((tf.identity(story), question), answer))
    return data.bucket(examples, stories.row_lengths(), BUCKETS, hp["batch_size"], split == "train").prefetch(2)


def sentence_vectors(tokens, embedding):
    """Sums the vectors of each sentence's words, weighted by position (section 4.1): (..., words) to (..., units).

    The weights fall along the sentence for some of the units and rise for others, so that the sum keeps the order.
    Padding counts for nothing.
    """
    units = embedding.output_dim
    real = ops.cast(ops.not_equal(tokens, 0), "float32")
    length = ops.maximum(ops.sum(real, axis=-1, keepdims=True), 1.0)
    position = ops.expand_dims(ops.cumsum(real, axis=-1) / length, -1)  # (..., words, 1), 1 at the last word.
    unit = ops.arange(1, units + 1, dtype="float32") / units
    weights = (1.0 - position) - unit * (1.0 - 2.0 * position)  # (..., words, units)
    return ops.sum(embedding(tokens) * weights * ops.expand_dims(real, -1), axis=-2)


def attend(hp, story, question):
    """Looks at the story's sentences as the question asks, adds what it saw to the question, looks again: (B, units).

    The memory has a key and a value for every sentence, which say what its words are and how long ago it was told. The
    hops share all weights: the paper's "layer-wise, RNN-like" network, section 2.2.
    """

    def vectors_of(what, number):
        return layers.Embedding(number, hp["units"], keras.initializers.RandomNormal(stddev=0.1), name=what)

    real = ops.not_equal(story[:, :, 0], 0)  # (B, S)
    told = ops.cumsum(ops.cast(real, "int32"), axis=1)
    ago = ops.max(told, axis=1, keepdims=True) - told  # (B, S), 0 for the last sentence.
    keys = sentence_vectors(story, vectors_of("key_words", VOCABULARY_SIZE))  # (B, S, units)
    keys = keys + vectors_of("key_times", hp["sentences"])(ago)
    values = sentence_vectors(story, vectors_of("value_words", VOCABULARY_SIZE))
    values = values + vectors_of("value_times", hp["sentences"])(ago)
    query = sentence_vectors(question, vectors_of("question_words", VOCABULARY_SIZE))  # (B, units)
    between = layers.Dense(hp["units"], use_bias=False, name="between_hops")
    for hop in range(1, hp["hops"] + 1):
        match = ops.sum(query[:, None] * keys, axis=-1)
        weights = layers.Softmax(name=f"hop_{hop}")(match, mask=real)  # (B, S)
        weights = layers.Dropout(hp["dropout"])(weights)
        query = between(query) + ops.sum(weights[:, :, None] * values, axis=1)
    return query


def remember(hp, story, question):
    """Reads the story word by word, then the question, and keeps what an LSTM can: (B, units)."""
    tokens = ops.concatenate([layers.Reshape((-1,))(story), question], axis=1)  # (B, 7 S + 7)
    vectors = layers.Embedding(VOCABULARY_SIZE, hp["units"], name="words")(tokens)
    return layers.LSTM(hp["units"])(vectors, mask=ops.not_equal(tokens, 0))


def build_model(hp):
    """Story (B, S, 7) and question (B, 7) to logits of the answer's word (B, VOCABULARY_SIZE)."""
    story = keras.Input((None, SENTENCE_LENGTH), dtype="int32", name="story")
    question = keras.Input((None,), dtype="int32", name="question")
    reader = {"memory": attend, "lstm": remember}[hp["reader"]]
    logits = layers.Dense(VOCABULARY_SIZE, name="answer")(reader(hp, story, question))
    model = keras.Model([story, question], logits, name="question_answering")
    steps = hp["epochs"] * (examples_of(hp) // hp["batch_size"] + len(BUCKETS))
    schedule = keras.optimizers.schedules.CosineDecay(
        hp["learning_rate"] / 10, steps - steps // 10, warmup_target=hp["learning_rate"], warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=16,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` on all tasks at once and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("fit", examples=examples_of(hp)),
        verbose=0,
        shuffle=False,
    )
    return model


def in_batches(hp, stories, questions, words):
    """The model's inputs for a list of stories and of questions, padded: batches of ((B, S, 7), (B, 7))."""
    examples = tf.data.Dataset.from_tensor_slices(inputs_of(hp, stories, questions, words)).batch(250)
    return examples.map(lambda story, question: (story.to_tensor(), question))


def answer(model, hp, stories, questions, words):
    """Answers each of `questions` by a word, a list of str.

    stories: a list of sentences for each question; words: the lines of vocabulary.txt.
    """
    batches = in_batches(hp, stories, questions, words)
    logits = np.concatenate([model([story, question], training=False) for story, question in batches])
    return [words[token - 2] for token in 2 + logits[:, 2 : len(words) + 2].argmax(axis=1)]


def look(model, hp, stories, questions, words):
    """Where the model looked in each story: a list of (sentences, hops), the weights of a hop add up to 1.

    Of a story with more than hp["sentences"], those that the model reads.
    """
    hops = [model.get_layer(f"hop_{hop}").output for hop in range(1, hp["hops"] + 1)]
    looker = keras.Model(model.inputs, ops.stack(hops, axis=-1))
    looks = []
    for story, question in in_batches(hp, stories, questions, words):
        real = story[:, :, 0] != 0
        looks += [each[mask] for each, mask in zip(looker([story, question], training=False).numpy(), real.numpy())]
    return looks


def share_right(given, questions):
    """The share of right answers, {task: share}; the tasks are 1 to 5."""
    right = collections.defaultdict(list)
    for word, each in zip(given, questions, strict=True):
        right[int(each["task"])].append(word == each["answer"])
    return {task: float(np.mean(right[task])) for task in sorted(right)}


def commonest_answers(hp, questions):
    """The baseline: for each question the answer that its task has most often in training."""
    counts = collections.defaultdict(collections.Counter)
    for each in read(hp, "train"):
        counts[each["task"]][each["answer"]] += 1
    return [counts[each["task"]].most_common(1)[0][0] for each in questions]


def latest_answers(hp, questions):
    """For each question the last word of its story that answers a training question of its task and isn't asked."""
    possible = collections.defaultdict(set)
    for each in read(hp, "train"):
        possible[each["task"]].add(each["answer"])
    given = []
    for each in questions:
        candidates = possible[each["task"]] - set(split_words(each["question"]))
        given.append(next((word for word in split_words(" ".join(each["story"]))[::-1] if word in candidates), None))
    return given


def evaluate(model, hp):
    """Accuracy on the test questions, of each task and their mean, the baselines', and whether it looks at the facts."""
    questions, words = read(hp, "test"), vocabulary(hp)
    stories, asked = [each["story"] for each in questions], [each["question"] for each in questions]
    tasks = share_right(answer(model, hp, stories, asked, words), questions)
    results = {
        "accuracy": np.mean(list(tasks.values())),
        "commonest_accuracy": np.mean(list(share_right(commonest_answers(hp, questions), questions).values())),
        "latest_accuracy": np.mean(list(share_right(latest_answers(hp, questions), questions).values())),
        **{f"accuracy_task_{task}": share for task, share in tasks.items()},
    }
    if hp["reader"] == "memory":
        looks = look(model, hp, stories, asked, words)
        # The sentence that each hop weighs most, counted from the story's beginning.
        seen = [len(story) - len(each) + each.argmax(axis=0) for story, each in zip(stories, looks)]
        results["facts_looked_at"] = np.mean(
            [np.isin(each["supporting"], hops).mean() for each, hops in zip(questions, seen)]
        )
    return results


def assets(hp):
    """The vocabulary, one word a line, as `answer` wants it."""
    return {"vocabulary.txt": "\n".join(vocabulary(hp))}


def draw(stories, looks):
    """One panel a story: its sentences, and where the model looked; the facts that the answer rests on are bold.

    stories: list of (question as `read` returns it, the model's answer); looks: as `look` returns them.
    """
    longest = max(len(look) for look in looks)
    picture, axes = plots.new(6.2 * len(stories), 1.4 + 0.24 * longest, columns=len(stories), squeeze=False)
    for ax, (each, given), weights in zip(axes[0], stories, looks):
        ax.imshow(weights, cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto")
        unread = len(each["story"]) - len(weights)
        ax.set_yticks(range(len(weights)), each["story"][unread:])
        for index, label in enumerate(ax.get_yticklabels(), start=unread):
            label.set_fontweight("bold" if index in each["supporting"] else "normal")
        ax.set_xticks(range(weights.shape[1]), [f"hop {hop}" for hop in range(1, weights.shape[1] + 1)])
        correction = "" if given == each["answer"] else f" (no: {each['answer']})"
        ax.set_title(f"{each['question']} {given}{correction}", loc="right")
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    return picture


def show(model, hp):
    """Validation accuracy beside the published figures, and where the model looked in stories of three tasks."""
    questions, words = read(hp, "validation"), vocabulary(hp)
    stories, asked = [each["story"] for each in questions], [each["question"] for each in questions]
    given = answer(model, hp, stories, asked, words)
    shares = share_right(given, questions)
    lines = [f"{'task':26}" + "".join(f"{task:>8}" for task in shares)]
    lines.append(f"{'here, validation':26}" + "".join(f"{100 * share:8.1f}" for share in shares.values()))
    for name, figures in PUBLISHED.items():
        lines.append(f"{name:26}" + "".join(f"{figures[task - 1]:8.1f}" for task in shares))
    shown = {"answers": "\n".join(lines)}
    if hp["reader"] == "memory":
        picked = []
        for task in (2, 3, 5):  # Where an answer rests on several facts, or a sentence names three things.
            indices = [index for index, each in enumerate(questions) if each["task"] == task]
            picked.append(min(indices, key=lambda index: abs(len(stories[index]) - 14)))
        looks = look(model, hp, [stories[index] for index in picked], [asked[index] for index in picked], words)
        shown["attention"] = draw([(questions[index], given[index]) for index in picked], looks)
    return shown


if __name__ == "__main__":
    runner.run(__spec__.name)
