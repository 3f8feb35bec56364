"""A small network learns by Q-learning to walk to the end of a corridor where a lamp is lit.

Result    not measured yet
Baseline  steps decided by the toss of a coin
Published nothing: a test fixture
Paper     Mnih et al., Playing Atari with Deep Reinforcement Learning, 2013, https://arxiv.org/abs/1312.5602
Answers   Can a recipe act in an environment instead of reading data, and can its killed run be resumed?

    python -m recipes.kinds.acting
"""

import keras
import numpy as np
from keras import layers, ops

from common.callbacks import OneCycle, epochs

PROMISE = {
    "figure": {"metric": "return", "better": "higher"},
    "monitor": {"metric": "val_return", "better": "higher"},
    "baseline": {"metric": "random_return", "name": "steps drawn by a coin"},
    "published": {"value": 0.7, "source": "a fixture of the tests: nobody published it"},
    "data": ["environment/corridor"],
}
TINY = {"epochs": 2, "steps": 30}
VARIANTS = {"little exploration": {"exploration": 0.1}}
PINNED = ("steps",)
SPLITS = {"train": [0, 1, 2, 3, 4, 5, 6, 7], "validation": [100, 101, 102], "test": [200, 201, 202, 203, 204]}
END, LIMIT, CAPACITY = 6, 14, 50  # The corridor's last cell; steps in an episode, at most; transitions kept.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("epochs", 1, 50, default=10)
    hp.Int("steps", 10, 1000, default=200)  # Of the environment, and of the optimizer, in an epoch.
    hp.Float("learning_rate", 1e-4, 3e-2, sampling="log", default=1e-2)  # The peak of the one-cycle schedule.
    hp.Float("exploration", 0.0, 1.0, default=0.3)
    return hp


def build_model(hp):
    """From observations (B, 2) to the values of a step to the left and of one to the right (B, 2)."""
    seen = keras.Input((2,), name="seen")
    model = keras.Model(seen, layers.Dense(2)(layers.Dense(32, activation="relu")(seen)), name="walker")
    model.compile(keras.optimizers.Adam(hp["learning_rate"]), "mse")
    return model


class Agent(keras.Model):
    """The network and its replay memory, in weights that are not trained: a resumed run finds them as they were."""

    def __init__(self, network):
        super().__init__(name="agent")
        self.network = network
        self.memory = self.add_weight((CAPACITY, 6), "zeros", trainable=False)
        self.remembered = self.add_weight((), "zeros", dtype="int32", trainable=False)
        self.built = True
        self.compile(network.optimizer)

    def learn(self, transition, random):
        """Remembers [seen (2,), action, reward, seen next (2,)] and learns from 32 of these; returns their loss."""
        place = [int(self.remembered) % CAPACITY, 0]
        self.memory.assign(ops.slice_update(self.memory, place, np.array([transition], "float32")))
        self.remembered.assign_add(1)
        chosen = self.memory.numpy()[random.integers(min(int(self.remembered), CAPACITY), size=32)]
        seen, action, reward, following = np.split(chosen, [2, 3, 4], axis=1)
        values, later = self.network(seen).numpy(), np.max(self.network(following), axis=1, keepdims=True)
        np.put_along_axis(values, action.astype(int), reward + 0.95 * later * (reward < 1), axis=1)  # 1: the end.
        return self.network.train_on_batch(seen, values, return_dict=True)["loss"]


class Corridor:
    """A corridor with a lamp at one end: 1 for getting there, -0.05 for every other step."""

    def __init__(self, seed):
        random = np.random.default_rng(seed)
        self.cell, self.lamp, self.steps = int(random.integers(1, END)), int(random.integers(2)), 0
        self.seen, self.over = [self.cell / END, self.lamp], False

    def step(self, action):
        """Moves to the left, 0, or to the right, 1; returns the reward."""
        self.cell, self.steps = min(max(self.cell + 2 * action - 1, 0), END), self.steps + 1
        arrived = self.cell == END * self.lamp
        self.seen, self.over = [self.cell / END, self.lamp], arrived or self.steps == LIMIT
        return 1.0 if arrived else -0.05


def train(hp, seed, callbacks=()):
    """Trains from `seed` and returns the network; all randomness follows from seed and epoch."""
    keras.utils.set_random_seed(seed)
    agent = Agent(build_model(hp))
    for epoch, logs in epochs(agent, hp["epochs"], [OneCycle(), *callbacks], hp["steps"]):
        random, losses = np.random.default_rng([seed, epoch]), []
        corridor = Corridor(random.choice(SPLITS["train"]))
        for _ in range(hp["steps"]):
            if corridor.over:
                corridor = Corridor(random.choice(SPLITS["train"]))
            seen = corridor.seen
            action = random.integers(2) if random.random() < hp["exploration"] else act(agent.network, seen)
            losses.append(agent.learn([*seen, action, corridor.step(action), *corridor.seen], random))
        logs["loss"] = float(np.mean(losses))
        logs["val_return"] = mean_return(lambda seen: act(agent.network, seen), SPLITS["validation"])
    return agent.network


def act(model, seen):
    """The better step for an observation, [place from 0 to 1, lamp at 0 or 1]: 0 is to the left, 1 to the right."""
    return int(np.argmax(model(np.array([seen], "float32"))))


def mean_return(policy, seeds):
    """The mean sum of rewards over the episodes that begin from `seeds`; policy: from an observation to an action."""
    total = 0.0
    for corridor in map(Corridor, seeds):
        while not corridor.over:
            total += corridor.step(policy(corridor.seen))
    return total / len(seeds)


def evaluate(model, hp):
    """The mean return on the test seeds, without exploration, and the baseline's."""
    seeds, random = SPLITS["test"], np.random.default_rng(0)
    own, coin = (mean_return(each, seeds) for each in (lambda seen: act(model, seen), lambda _: random.integers(2)))
    return {"return": own, "random_return": coin}


def show(model, hp):
    """The better step in every cell, as text."""
    rows = ("".join("<>"[act(model, [cell / END, lamp])] for cell in range(END + 1)) for lamp in (0, 1))
    return {"steps": "lamp at the left {}, at the right {}".format(*rows)}


if __name__ == "__main__":
    from common.cookbook.command_line import main

    main(__spec__.name)
