"""TFDS builder of sums: the data are generated, nothing is downloaded."""

import numpy as np
import tensorflow_datasets as tfds


class Builder(tfds.core.GeneratorBasedBuilder):
    """60,000 different sums of two numbers of up to three digits, generated with a fixed seed.

    a + b and b + a count as the same sum, so that no question of one split is answered in another.
    """

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First release."}
    SIZES = {"train": 50_000, "validation": 5_000, "test": 5_000}

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"question": tfds.features.Text(), "answer": tfds.features.Text()}),
            supervised_keys=("question", "answer"),
        )

    def _split_generators(self, dl_manager):
        generator = np.random.default_rng(20161031)
        small, large = np.triu_indices(1000)
        chosen = generator.choice(len(small), size=sum(self.SIZES.values()), replace=False)
        swapped = generator.random(len(chosen)) < 0.5
        first = np.where(swapped, large[chosen], small[chosen])
        second = np.where(swapped, small[chosen], large[chosen])
        ends = np.cumsum(list(self.SIZES.values()))
        parts = zip(self.SIZES, np.split(first, ends[:-1]), np.split(second, ends[:-1]))
        return {split: self._generate_examples(a, b) for split, a, b in parts}

    def _generate_examples(self, first, second):
        for index, (a, b) in enumerate(zip(first.tolist(), second.tolist())):
            yield index, {"question": f"{a}+{b}", "answer": str(a + b)}
