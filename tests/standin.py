"""A recipe without a network, whose runs take no time: what runs, recording and damaged files are tested with."""

import gc

import keras

from common.callbacks import epochs
from common.cookbook import catalogue, command_line, runs

NAME = "seq2seq.addition"  # Whose entry it borrows.
PROMISE = {
    "figure": {"metric": "accuracy", "better": "higher"},
    "monitor": {"metric": "val_accuracy", "better": "higher"},
    "baseline": {"metric": "chance", "name": "chance"},
    "published": {"value": 5.0, "source": "nobody"},
    "data": [],
}
TINY = {"epochs": 1}
VARIANTS = {"fast": {"rate": 2.0}}
SPLITS = {}


class Agent(keras.Model):
    """What is trained: one weight."""

    def __init__(self):
        super().__init__(name="agent")
        self.total = self.add_weight(name="total", initializer="zeros")
        self.built = True
        self.compile("sgd")


class Picture:
    """What `show` may return instead of a figure."""

    def savefig(self, path):
        path.write_bytes(b"a picture")


class StandIn:
    """Adds `rate` in each of its epochs, at the end of which `at_epoch` may change logs and agent."""

    PROMISE, TINY, VARIANTS, SPLITS = PROMISE, TINY, VARIANTS, SPLITS

    def __init__(self):
        gc.freeze()  # Otherwise every run looks through all modules for garbage, which takes longer than the rest.
        self.at_epoch = self.before_evaluation = lambda *given: None
        self.shown = {"sum": "one weight"}

    def configure(self, hp):
        hp.Int("epochs", 1, 9, default=2)
        hp.Float("rate", 0.0, 9.0, default=1.0)
        return hp

    def train(self, hp, seed, callbacks=()):
        agent = Agent()
        for epoch, logs in epochs(agent, hp["epochs"], callbacks):
            agent.total.assign_add(hp["rate"])
            logs |= {"loss": 0.0, "val_loss": 0.0, "val_accuracy": float(agent.total)}
            self.at_epoch(epoch, logs, agent)
        return agent

    def evaluate(self, agent, hp):
        self.before_evaluation()
        return {"accuracy": float(agent.total), "chance": 0.0}

    def save(self, agent, out):
        (out / "model.txt").write_text(str(float(agent.total)))

    def show(self, agent, hp):
        return {"line": Picture(), **self.shown}


def execute(recipe, out, values=None, seeds=(0,), **options):
    return runs.execute(catalogue.entry(NAME), recipe, values or {}, list(seeds), out, **options)


def dispatch(recipe, *arguments):
    """What `python -m recipes.CHAPTER.NAME ARGUMENTS` does, for the stand-in."""
    entry = catalogue.entry(NAME)
    options = command_line.parser(entry).parse_args(list(arguments))
    return command_line.dispatch(entry, recipe, options)
