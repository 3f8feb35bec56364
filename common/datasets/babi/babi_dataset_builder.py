"""Reads bAbI tasks 1 to 5, version 1.2, in English: 1,000 questions per task and split."""

import numpy as np
import tensorflow_datasets as tfds

URL = (
    "https://raw.githubusercontent.com/patrickachase/dynamic-memory-networks/master/data/babi/tasks_1-20_v1-2/en/"
    "qa{}_{}_{}.txt"
)
TASKS = (
    "single-supporting-fact",
    "two-supporting-facts",
    "three-supporting-facts",
    "two-arg-relations",
    "three-arg-relations",
)


class Builder(tfds.core.GeneratorBasedBuilder):
    """Questions with their story so far; the first question of every task, then the second of every task, ..."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Tasks 1 to 5 of v1.2, en."}

    def _info(self):
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "task": np.int64,  # 1 to 5
                    "story": tfds.features.Sequence(text),  # The sentences so far, without questions.
                    "question": text,
                    "answer": text,
                    "supporting": tfds.features.Sequence(np.int64),  # Indices of the sentences it depends on.
                }
            ),
            homepage="https://research.fb.com/downloads/babi/",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        urls = {
            split: [URL.format(task, name, split) for task, name in enumerate(TASKS, start=1)]
            for split in ("train", "test")
        }
        return {split: self._generate_examples(paths) for split, paths in dl_manager.download(urls).items()}

    def _generate_examples(self, paths):
        questions = [read_questions(path, task) for task, path in enumerate(paths, start=1)]
        for index, turn in enumerate(zip(*questions, strict=True)):
            for question in turn:
                yield index * len(TASKS) + question["task"] - 1, question


def read_questions(path, task):
    """Yields the questions of a file, whose lines are numbered from 1 within a story.

    A question's line holds the question, the answer and the numbers of the lines that support it, separated by tabs.
    """
    with open(path, encoding="utf-8") as file:
        for line in file:
            number, text = line.strip().split(" ", 1)
            if number == "1":
                story, place = [], {}
            if "\t" not in text:
                place[number] = len(story)
                story.append(text)
                continue
            question, answer, supporting = text.split("\t")
            yield {
                "task": task,
                "story": list(story),
                "question": question.strip(),
                "answer": answer,
                "supporting": [place[number] for number in supporting.split()],
            }
