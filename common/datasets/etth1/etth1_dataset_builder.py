"""Reads ETTh1, load and oil temperature of an electricity transformer, and splits it as the literature does."""

import csv

import numpy as np
import tensorflow_datasets as tfds

URL = "https://raw.githubusercontent.com/zhouhaoyi/ETDataset/main/ETT-small/ETTh1.csv"
# Useful and useless load on the high, middle and low voltage sides, and the oil temperature.
COLUMNS = ("HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT")
MONTH = 30 * 24  # hours
SPLITS = {"train": (0, 12 * MONTH), "validation": (12 * MONTH, 16 * MONTH), "test": (16 * MONTH, 20 * MONTH)}


class Builder(tfds.core.GeneratorBasedBuilder):
    """One example per hour, in order of time."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "12, 4 and 4 months of 30 days each, from 2016-07-01 on."}

    def _info(self):
        features = {"date": tfds.features.Text()} | {column: np.float32 for column in COLUMNS}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage="https://github.com/zhouhaoyi/ETDataset",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        path = dl_manager.download(URL)
        return {split: self._generate_examples(path, *borders) for split, borders in SPLITS.items()}

    def _generate_examples(self, path, begin, end):
        with open(path, encoding="utf-8", newline="") as file:
            hours = list(csv.DictReader(file))
        for index, hour in enumerate(hours[begin:end]):
            yield index, {"date": hour["date"]} | {column: float(hour[column]) for column in COLUMNS}
