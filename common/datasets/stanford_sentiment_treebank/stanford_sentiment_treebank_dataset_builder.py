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
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "The trees of trainDevTestTrees_PTB.zip."}

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "words": tfds.features.Sequence(tfds.features.Text()),
                    "children": tfds.features.Tensor(shape=(None, 2), dtype=np.int32),
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
        for index, line in enumerate(lines):
            words, children, labels = parse(line)
            yield index, {"words": words, "children": children, "labels": labels}


def parse(text):
    """Parses a tree such as "(3 (2 the) (3 (3 best) (2 film)))", or "(the (best film))" if no labels are known.

    Returns:
        words: list of n str, left to right; node i < n of the tree is word i.
        children: (n - 1, 2) int32, the left and the right child of the nodes n, n + 1, ..., each after its children.
        labels: list of 2 n - 1 int, one per node; 2, neutral, where the text has none.
    """
    words, leaf_labels, inner_labels, children = [], [], [], []
    open_nodes = []  # The label and the children so far of every node that is still open.
    for token in re.findall(r"\(\d(?=[\s(])|\(|\)|[^\s()]+", text):
        if token[0] == "(":
            open_nodes.append((int(token[1:] or 2), []))
        elif token != ")":
            for escape, character in ESCAPES.items():
                token = token.replace(escape, character)
            open_nodes[-1][1].append(len(words))
            leaf_labels.append(open_nodes[-1][0])
            words.append(token)
        else:
            label, below = open_nodes.pop()
            if len(below) == 2:
                # Counted down from -1, because the number of words is known only at the end.
                children.append(below)
                inner_labels.append(label)
                below = [-len(children)]
            if open_nodes:
                open_nodes[-1][1].extend(below)
    children = np.array(children, "int32").reshape(-1, 2)
    children = np.where(children < 0, len(words) - 1 - children, children)
    return words, children, leaf_labels + inner_labels
