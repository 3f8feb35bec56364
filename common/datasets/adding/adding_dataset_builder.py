"""TFDS builder of the adding problem: the data are generated, nothing is downloaded."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds


@dataclasses.dataclass
class Config(tfds.core.BuilderConfig):
    """Sequences of `length` numbers."""

    length: int = 0


class Builder(tfds.core.GeneratorBasedBuilder):
    """Numbers between 0 and 1, two of them marked, one in each half; the answer is their sum."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.1.0")
    RELEASE_NOTES = {"1.0.0": "First release.", "1.1.0": "More test examples."}
    BUILDER_CONFIGS = [
        Config(name=f"steps_{length}", description=f"Sequences of {length} numbers.", length=length)
        for length in (50, 200, 600)
    ]
    SIZES = {"train": 10_000, "validation": 1_000, "test": 2_560}  # As many tests as in the paper of 1997.

    def _info(self):
        features = {
            "numbers": tfds.features.Tensor(shape=(self.builder_config.length,), dtype=np.float32),
            "marked": tfds.features.Tensor(shape=(2,), dtype=np.int32),
            "sum": tfds.features.Scalar(dtype=np.float32),
        }
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(features), disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(np.random.default_rng([1997, self.builder_config.length, index]), size)
            for index, (split, size) in enumerate(self.SIZES.items())
        }

    def _generate_examples(self, generator, size):
        length = self.builder_config.length
        for index in range(size):
            numbers = generator.random(length, dtype=np.float32)
            marked = np.array([generator.integers(length // 2), generator.integers(length // 2, length)], np.int32)
            yield index, {"numbers": numbers, "marked": marked, "sum": numbers[marked].sum()}
