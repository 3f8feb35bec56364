"""Reads the Stanford Sentiment Treebank from bracketed trees, one per line."""

import re
import zipfile

import numpy as np
import tensorflow_datasets as tfds

URL = "https://nlp.stanford.edu/sentiment/trainDevTestTrees_PTB.zip"
FILES = {"train": "trees/train.txt", "validation": "trees/dev.txt", "test": "trees/test.txt"}
ESCAPES = {"-LRB-": "(", "-RRB-": ")", "\\/": "/", "\\*": "*"}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Binary trees with a label at every node, in the order of the official files."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("2.0.0")
    RELEASE_NOTES = {
        "1.0.0": "The trees of trainDevTestTrees_PTB.zip.",
        "2.0.0": "Phrases and levels; three words that contain a no-break space are no longer split.",
    }

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "phrases": tfds.features.Sequence(tfds.features.Text()),
                    "children": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
                    "levels": tfds.features.Sequence(np.int32),
                    "labels": tfds.features.Sequence(tfds.features.ClassLabel(num_classes=5)),
                }
            ),
            homepage="https://nlp.stanford.edu/sentiment/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        path = dl_manager.download(URL)
        return {split: self._generate_examples(path, file) for split, file in FILES.items()}

    def _generate_examples(self, path, file):
        with zipfile.ZipFile(path) as archive:
            lines = archive.read(file).decode("utf-8").strip("\n").split("\n")
        yield from enumerate(map(parse, lines))


def parse(text):
    """Parses a binary tree such as "(3 (2 the) (3 (3 best) (2 film)))", or "(the (best film))" if no labels are known.

    Node i < n of a tree with n words is word i; every other node comes after its children, the root last.

    Returns a dictionary:
        phrases: list of 2 n - 1 str, the words of every node, with spaces between them.
        children: (n - 1, 2) int32, the left and the right child of the nodes n, n + 1, ...
        levels: list of 2 n - 1 int, 0 for words, one more than the higher child's level for other nodes.
        labels: list of 2 n - 1 int, one per node; 2, neutral, where the text has none.

    Raises ValueError for any other text.
    """
    problem = f"{text!r} is not a binary tree in brackets, such as (the (best film))"
    words, inner, children = [], [], []  # A node is a tuple: number, phrase, level and label.
    brackets = [(2, [])]  # Of every open bracket, the label and the nodes so far; the first stands for the whole text.
    # With re.ASCII, \s leaves out the no-break space, which is a part of words such as "8 1/2".
    for token in re.findall(r"\(\d(?=[\s(])|\(|\)|[^\s()]+", text, re.ASCII):
        if token[0] == "(":
            brackets.append((int(token[1:] or 2), []))
        elif token != ")":
            for escape, character in ESCAPES.items():
                token = token.replace(escape, character)
            label, nodes = brackets[-1]
            words.append((len(words), token, 0, label))
            nodes.append(words[-1])
        else:
            label, nodes = brackets.pop()
            if len(nodes) == 2:
                (left, *_), (right, *_) = nodes
                children.append((left, right))
                phrase, level = " ".join(node[1] for node in nodes), 1 + max(node[2] for node in nodes)
                # Counted down from -1, because the number of words is known only at the end.
                inner.append((-len(children), phrase, level, label))
                nodes = inner[-1:]
            if len(nodes) != 1 or not brackets:
                raise ValueError(problem)
            brackets[-1][1].extend(nodes)
    if len(brackets) != 1 or len(brackets[0][1]) != 1:
        raise ValueError(problem)
    children = np.array(children, "int32").reshape(-1, 2)
    children = np.where(children < 0, len(words) - 1 - children, children)
    _, phrases, levels, labels = map(list, zip(*words, *inner))
    return {"phrases": phrases, "children": children, "levels": levels, "labels": labels}
