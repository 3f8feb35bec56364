"""Reads three series of the Numenta anomaly benchmark, and the windows that contain their anomalies."""

import csv
import json

import numpy as np
import tensorflow_datasets as tfds

URL = "https://raw.githubusercontent.com/numenta/NAB/master/{}"
FILES = {
    "nyc_taxi": "realKnownCause/nyc_taxi.csv",
    "machine_temperature": "realKnownCause/machine_temperature_system_failure.csv",
    "request_latency": "realKnownCause/ec2_request_latency_system_failure.csv",
}


class Builder(tfds.core.GeneratorBasedBuilder):
    """One split per series, one example per reading, in order of time."""

    # Increase it whenever the examples change: TFDS would otherwise keep serving the data prepared earlier.
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Three series of realKnownCause, labels of combined_windows.json."}

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "timestamp": tfds.features.Text(),
                    "value": np.float32,
                    "anomaly": np.int64,  # The number of the window that contains the reading, from 1; 0 for none.
                }
            ),
            homepage="https://github.com/numenta/NAB",
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        urls = {split: URL.format(f"data/{file}") for split, file in FILES.items()}
        paths = dl_manager.download(urls | {"windows": URL.format("labels/combined_windows.json")})
        with open(paths["windows"], encoding="utf-8") as file:
            windows = json.load(file)
        return {split: self._generate_examples(paths[split], windows[file]) for split, file in FILES.items()}

    def _generate_examples(self, path, windows):
        with open(path, encoding="utf-8", newline="") as file:
            for index, reading in enumerate(csv.DictReader(file)):
                # All have the form 2014-07-01 00:00:00, with or without a fraction, so text order is time order.
                inside = [
                    number
                    for number, (first, last) in enumerate(windows, 1)
                    if first[:19] <= reading["timestamp"] <= last[:19]
                ]
                yield index, reading | {"anomaly": sum(inside)}
