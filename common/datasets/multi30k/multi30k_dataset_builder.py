"""Reads multi30k's task 1 (translation): one sentence a line, the same line in every language."""

import gzip

import tensorflow_datasets as tfds

URL = "https://raw.githubusercontent.com/multi30k/dataset/master/data/task1/raw/{}.{}.gz"
LANGUAGES = ("de", "en", "fr")
FILES = {"train": "train", "validation": "val", "test": "test_2016_flickr"}


class Builder(tfds.core.GeneratorBasedBuilder):
    """Sentence triples, in the order of the official files."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Task 1, raw text, test_2016_flickr as test."}

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({language: tfds.features.Text() for language in LANGUAGES}),
            homepage="https://github.com/multi30k/dataset",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        urls = {
            split: {language: URL.format(file, language) for language in LANGUAGES} for split, file in FILES.items()
        }
        return {split: self._generate_examples(paths) for split, paths in dl_manager.download(urls).items()}

    def _generate_examples(self, paths):
        lines = []
        for language in LANGUAGES:
            with gzip.open(paths[language], "rt", encoding="utf-8", newline="\n") as file:
                # str.splitlines would also split at characters that occur inside sentences.
                lines.append(file.read().removesuffix("\n").split("\n"))
        for index, sentences in enumerate(zip(*lines, strict=True)):
            yield index, dict(zip(LANGUAGES, sentences))
