"""A small network learns by Q-learning to walk to the end of a corridor where a lamp is lit.

Result    not measured yet
Baseline  steps drawn by a coin
Published nothing: a fixture of the tests
Paper     Mnih et al., Playing Atari with Deep Reinforcement Learning, 2013, https://arxiv.org/abs/1312.5602
Answers   Can a recipe act in an environment instead of reading data, and a killed run of it be resumed?

    python -m recipes.kinds.acting
"""

import keras
import numpy as np
from keras import layers, ops

from common.callbacks import OneCycle, epochs
from common.plots import new, plain

PROMISE = {
    "figure": {"metric": "return", "better": "higher"},
    "monitor": {"metric": "val_return", "better": "higher"},
    "baseline": {"metric": "random_return", "name": "steps drawn by a coin"},
    "published": {"value": 0.7, "source": "a fixture of the tests: nobody published it"},
    "data": ["environment/corridor"],
}
TINY = {"epochs": 2, "steps": 30, "capacity": 50}
VARIANTS = {"short memory": {"capacity": 50}}
SPLITS = {"train": [0, 1, 2, 3, 4, 5, 6, 7], "validation": [100, 101, 102, 103], "test": [200, 201, 202, 203, 204]}
LENGTH, LIMIT = 7, 14  # Cells of the corridor, and steps of an episode at most.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("epochs", 1, 50, default=10)
    hp.Int("steps", 10, 1000, default=200)  # Of the environment, and of the optimizer, in an epoch.
    hp.Int("capacity", 50, 10_000, default=1000)  # Transitions that are remembered.
    hp.Int("batch_size", 8, 128, step=8, default=32)
    hp.Int("units", 8, 128, step=8, default=32)
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=1e-2)  # The peak of the one-cycle schedule.
    hp.Float("exploration", 0.0, 1.0, default=0.3)
    hp.Float("discount", 0.5, 1.0, default=0.95)
    return hp


def build_model(hp):
    """From what is seen (B, 2) to the value of a step to the left and of one to the right (B, 2)."""
    seen = keras.Input((2,), name="seen")
    hidden = layers.Dense(hp["units"], activation="relu")(seen)
    hidden = layers.Dense(hp["units"], activation="relu")(hidden)
    model = keras.Model(seen, layers.Dense(2, name="values")(hidden), name="walker")
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), "mse")
    return model


class Agent(keras.Model):
    """The network and what it remembers, in weights that are not trained: a resumed run finds them as they were."""

    def __init__(self, network, capacity):
        super().__init__(name="agent")
        self.network = network
        self.memory = self.add_weight((capacity, 6), "zeros", trainable=False, name="memory")
        self.seen = self.add_weight((), "zeros", dtype="int32", trainable=False, name="seen")
        self.built = True
        self.compile(network.optimizer)

    def remember(self, transition):
        """transition: what was seen (2,), the action, the reward, and what was seen next (2,), as one list."""
        place = int(self.seen) % len(self.memory)
        self.memory.assign(ops.slice_update(self.memory, [place, 0], ops.array([transition], "float32")))
        self.seen.assign_add(1)

    def learn(self, random, batch_size, discount):
        """Updates the network from transitions drawn by the generator `random`; returns the epoch's mean loss."""
        chosen = random.integers(min(int(self.seen), len(self.memory)), size=batch_size)
        seen, action, reward, following = np.split(np.array(self.memory)[chosen], [2, 3, 4], axis=1)
        later = np.max(self.network(following), axis=1, keepdims=True) * (reward < 1)  # Only a goal ends an episode.
        values = np.array(self.network(seen))
        np.put_along_axis(values, action.astype(int), reward + discount * later, axis=1)
        return self.network.train_on_batch(seen, values, return_dict=True)["loss"]


class Corridor:
    """A corridor with a lamp at one end: 1 for getting there, -0.05 for every other step."""

    def reset(self, seed):
        random = np.random.default_rng(seed)
        self.cell, self.goal, self.steps = int(random.integers(1, LENGTH - 1)), random.choice([0, LENGTH - 1]), 0
        return [self.cell / (LENGTH - 1), np.sign(self.goal)]

    def step(self, action):
        """0 is to the left, 1 to the right. Returns what is seen, the reward, and whether the episode is over."""
        self.cell, self.steps = min(max(self.cell + 2 * action - 1, 0), LENGTH - 1), self.steps + 1
        arrived = self.cell == self.goal
        return [self.cell / (LENGTH - 1), np.sign(self.goal)], 1.0 if arrived else -0.05, arrived or self.steps == LIMIT


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the network; everything drawn at random follows from seed and epoch."""
    keras.utils.set_random_seed(seed)
    agent, corridor = Agent(build_model(hp), hp["capacity"]), Corridor()
    for epoch, logs in epochs(agent, hp["epochs"], [OneCycle(), *callbacks], hp["steps"]):
        random, over = np.random.default_rng([seed, epoch]), True
        agent.network.reset_metrics()
        for _ in range(hp["steps"]):
            if over:
                seen = corridor.reset(random.choice(SPLITS["train"]))
            action = random.integers(2) if random.random() < hp["exploration"] else act(agent.network, seen)
            following, reward, over = corridor.step(action)
            agent.remember([*seen, action, reward, *following])
            logs["loss"] = agent.learn(random, hp["batch_size"], hp["discount"])
            seen = following
        logs["val_return"] = mean_return(lambda seen: act(agent.network, seen), SPLITS["validation"])
    return agent.network


def act(model, seen):
    """The better step from where one is, [place from 0 to 1, lamp at 0 or 1]: 0 is to the left, 1 to the right."""
    return int(np.argmax(model(np.array([seen], "float32"))))


def mean_return(policy, seeds):
    """The mean sum of rewards over the episodes that begin from `seeds`; policy: from what is seen to an action."""
    corridor, total = Corridor(), 0.0
    for seed in seeds:
        seen, over = corridor.reset(seed), False
        while not over:
            seen, reward, over = corridor.step(policy(seen))
            total += reward
    return total / len(seeds)


def evaluate(model, hp):
    """The mean return on the test seeds, without exploration, and the baseline's."""
    random = np.random.default_rng(0)
    return {
        "return": mean_return(lambda seen: act(model, seen), SPLITS["test"]),
        "random_return": mean_return(lambda seen: random.integers(2), SPLITS["test"]),
    }


def show(model, hp):
    """How much better a step to the right is than one to the left, by cell and lamp."""
    picture, axes = new()
    for lamp in (0, 1):
        values = np.array(model(np.array([[cell / (LENGTH - 1), lamp] for cell in range(LENGTH)], "float32")))
        plain(axes).plot(values[:, 1] - values[:, 0], label=f"lamp at {'the right' if lamp else 'the left'}")
    axes.set(xlabel="cell", ylabel="advantage of a step to the right")
    axes.legend()
    return {"values": picture}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
