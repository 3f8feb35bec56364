"""An encoder-decoder with attention over the last turns replies as the assistants of schema_guided_dialogue do.

Result    bleu 10.312 with one seed, 35.1 minutes a run (31.5 of CPU) on 1 core
Baseline  the reply to the most similar history in train (TF-IDF); the commonest reply of all beside it
Anchor    none is published for replies from the words of the history alone: the aim of 10 BLEU is this recipe's own
Paper     Vinyals and Le, A Neural Conversational Model, 2015, https://arxiv.org/abs/1506.05869; with attention over the
          history (Bahdanau et al. 2014), and a vocabulary of pieces of words
Answers   How far does imitation go without a database to look into? Which replies does a network get right word for
          word? Does it look at what the user said, or at what it asked before? What are more turns of history worth?

    python -m recipes.seq2seq.chatbot
    python -m recipes.seq2seq.chatbot --set turns=1
    python -c "from recipes.seq2seq import chatbot; chatbot.chat('saved_models/seq2seq/chatbot')"

The figures are of a part of the data set, its own files: 6,811 of 16,142 dialogues in train (54 of 127 files), 2,098 of
2,482 in dev and 2,921 of 4,201 in test; mostly long dialogues about several services are missing. All of it gives other
figures. Train has none of 15 of the 21 services that test's dialogues are about, and of 8 of dev's 17.
"""

import collections
import functools
import math
import pathlib

import keras
import numpy as np
import sacrebleu
import tensorflow as tf
import tokenizers
from keras import ops
from sklearn.feature_extraction import text

from common import data, decoding, metrics, plots, runner, training

PROMISE = {
    "figure": {"metric": "bleu", "better": "higher"},
    "monitor": {"metric": "val_perplexity", "better": "lower"},
    "baseline": {"metric": "nearest_bleu", "name": "the reply to the most similar history"},
    "anchor": {"value": 10.0, "source": "the recipe's own aim"},
    "data": ["schema_guided_dialogue"],
    "tolerance": 1.0,  # For `verify`, since one seed tells no spread.
}
TINY = {"examples": 12, "epochs": 2, "units": 32, "vocabulary_size": 500}
VARIANTS = {"one turn of history": {"turns": 1}}
SPLITS = {"train": "train", "validation": "dev", "test": "test"}

START, END, USER, SYSTEM = 1, 2, 4, 5  # 0 is padding, 3 a character that training never showed.
SPEAKERS = {"<user>": USER, "<system>": SYSTEM}
# Tokens at which the next bucket begins: a bucket for every combination of a history's length and a reply's.
BUCKETS = [[24, 36, 50, 64], [10, 15, 22]]
LONGEST = 40  # Tokens that a reply may have.


def configure(hp):
    """Every hyperparameter: its default is the recipe's setting, its range the search space."""
    hp.Int("examples", 12, 6_811, default=6_811)  # Dialogues read from each split at most.
    hp.Int("epochs", 1, 20, default=4)
    hp.Int("turns", 1, 9, step=2, default=3)  # Of history: the user's last one, and pairs of turns before it.
    hp.Int("length", 16, 200, default=80)  # Of a longer history the last tokens.
    hp.Int("batch_size", 16, 256, step=16, default=128)
    hp.Int("vocabulary_size", 500, 16_000, step=500, default=4_000)
    hp.Int("units", 32, 1024, step=32, default=192)
    hp.Float("dropout", 0.0, 0.7, step=0.1, default=0.2)
    hp.Float("learning_rate", 1e-4, 1e-2, sampling="log", default=3e-3)  # The peak, after the warm-up.
    hp.Float("weight_decay", 1e-4, 1e-1, sampling="log", default=1e-2)
    return hp


@functools.cache
def read(split, examples):
    """The split's dialogues: tuples of utterances, the user's first, the system's second, and so on."""
    dialogues = data.load("schema_guided_dialogue", split, examples).as_numpy_iterator()
    return tuple(tuple(line.decode() for line in dialogue["utterances"]) for dialogue in dialogues)


def histories_and_replies(hp, split):
    """Every reply of the system in a split, after the turns before it: two lists of str.

    A history is one text, each turn after the name of its speaker.
    """
    histories, replies = [], []
    for dialogue in read(SPLITS[split], hp["examples"]):
        for reply in range(1, len(dialogue), 2):
            histories.append(history_of(dialogue[:reply], hp["turns"]))
            replies.append(dialogue[reply])
    return histories, replies


def history_of(utterances, turns):
    """The last turns of a dialogue as one text; the last of them is the user's."""
    speakers = ["<user>", "<system>"] * len(utterances)
    spoken = [f"{speaker}{line}" for speaker, line in zip(speakers, utterances)]
    return "".join(spoken[-turns:])


@functools.cache
def train_tokenizer(dialogues, vocabulary_size):
    """A vocabulary of pieces of words (Sennrich et al. 2016), in which the names of the speakers are tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unknown>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Metaspace(), tokenizers.pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    special = ["<padding>", "<start>", "<end>", "<unknown>", *SPEAKERS]
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=vocabulary_size, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator((line for dialogue in dialogues for line in dialogue), trainer)
    return tokenizer


def tokenizer_of(hp):
    """The tokenizer of the training dialogues."""
    return train_tokenizer(read(SPLITS["train"], hp["examples"]), hp["vocabulary_size"])


def tokens_of_histories(tokenizer, histories, length):
    """The last `length` tokens of each history, ragged: (histories, None) int32."""
    return tf.ragged.constant([line.ids[-length:] for line in tokenizer.encode_batch(histories)], dtype=tf.int32)


def tokens_of_replies(tokenizer, replies):
    """The first tokens of each reply and the end token, ragged: (replies, None) int32."""
    lines = [[*line.ids[: LONGEST - 1], END] for line in tokenizer.encode_batch(replies)]
    return tf.ragged.constant(lines, dtype=tf.int32)


def load_data(hp, split):
    """Batches of (history (B, S), reply shifted right (B, T)), reply (B, T), weight (B, T).

    The weights are 0 on padding and sum up to about 1. A batch has histories of like length and replies of like length.
    """
    tokenizer = tokenizer_of(hp)
    histories, replies = histories_and_replies(hp, split)
    histories = tokens_of_histories(tokenizer, histories, hp["length"])
    replies = tokens_of_replies(tokenizer, replies)
    examples = tf.data.Dataset.from_tensor_slices((histories, replies))
    examples = examples.map(lambda source, target: (tf.identity(source), tf.identity(target))).cache()
    # One for all batches: with a batch's own, the tokens of short replies would weigh more than those of long ones.
    tokens_of_a_batch = hp["batch_size"] * np.mean(replies.row_lengths())

    def shift(source, target):
        inputs = tf.concat([tf.fill((tf.shape(target)[0], 1), START), target[:, :-1]], axis=1)
        real = target != 0
        return (source, tf.where(real, inputs, 0)), target, tf.cast(real, tf.float32) / tokens_of_a_batch

    lengths = [histories.row_lengths(), replies.row_lengths()]
    batches = data.bucket(examples, lengths, BUCKETS, hp["batch_size"], split == "train")
    return batches.map(shift).prefetch(tf.data.AUTOTUNE)


def encode(layer, history):
    """Reads the history (B, S).

    layer: from a name to the layer.

    Returns:
        memory (B, S, units) for the attention, its mask (B, S), and the decoder's two first states (B, units).
    """
    mask = ops.not_equal(history, 0)
    vectors = layer("dropout")(layer("unit_scale")(layer("embedding")(history)))
    outputs, forward_state, backward_state = layer("encoder")(vectors, mask=mask)  # (B, S, 2 units)
    first_state = layer("first_state")(ops.concatenate([forward_state, backward_state], axis=-1))
    return layer("memory")(outputs), mask, [first_state, first_state]


def decode(layer, reply, states, memory, mask):
    """Writes on after the reply's tokens (B, T), from the states before them.

    Returns:
        logits (B, T, V), the states after the last token, and what the attention looked at (B, T, S).
    """
    vectors = layer("dropout")(layer("unit_scale")(layer("embedding")(reply)))
    query, query_state = layer("query")(vectors, initial_state=states[0])  # (B, T, units)
    context, attention = layer("attention")([query, memory], mask=[None, mask], return_attention_scores=True)
    answer_input = layer("dropout")(ops.concatenate([query, context], axis=-1))
    answer, answer_state = layer("answer")(answer_input, initial_state=states[1])
    output = layer("output")(ops.concatenate([answer, context], axis=-1))
    return layer("embedding")(layer("dropout")(output), reverse=True), [query_state, answer_state], attention


def build_model(hp):
    """Teacher forcing: (history (B, S), reply shifted right (B, T)) to logits (B, T, V)."""
    units, layers = hp["units"], keras.layers
    # One matrix for history, reply and softmax (Press and Wolf 2016): small for the logits, unit_scale undoes it.
    small = keras.initializers.RandomNormal(stddev=units**-0.5)
    recurrent = {"return_sequences": True, "return_state": True}
    parts = [
        layers.ReversibleEmbedding(hp["vocabulary_size"], units, embeddings_initializer=small, name="embedding"),
        layers.Rescaling(units**0.5, name="unit_scale"),
        layers.Dropout(hp["dropout"], name="dropout"),
        layers.Bidirectional(layers.GRU(units, **recurrent), name="encoder"),
        layers.Dense(units, name="memory"),
        layers.Dense(units, activation="tanh", name="first_state"),
        layers.GRU(units, **recurrent, name="query"),
        layers.Attention(use_scale=True, name="attention"),
        layers.GRU(units, **recurrent, name="answer"),
        layers.Dense(units, name="output"),
    ]
    layer = {part.name: part for part in parts}.get
    history = keras.Input((None,), dtype="int32", name="history")
    reply = keras.Input((None,), dtype="int32", name="reply")
    memory, mask, states = encode(layer, history)
    logits, _, _ = decode(layer, reply, states, memory, mask)
    model = keras.Model([history, reply], logits, name="chatbot")
    replies = len(histories_and_replies(hp, "train")[1])
    buckets = math.prod(len(edges) + 1 for edges in BUCKETS)
    steps = hp["epochs"] * (replies // hp["batch_size"] + buckets)  # Every bucket ends in a short batch.
    schedule = keras.optimizers.schedules.CosineDecay(
        hp["learning_rate"] / 10, steps, warmup_target=hp["learning_rate"], warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=hp["weight_decay"], clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum"),
        weighted_metrics=[metrics.Perplexity()],
        jit_compile=False,
        steps_per_execution=8,
    )
    return model


def train(hp, seed, callbacks=training.callbacks):
    """Trains from `seed` with teacher forcing and returns the model."""
    keras.utils.set_random_seed(seed)
    batches = load_data(hp, "train")
    model = build_model(hp)
    model.fit(
        batches,
        validation_data=load_data(hp, "validation"),
        epochs=hp["epochs"],
        callbacks=callbacks("chatbot", len(histories_and_replies(hp, "train")[1])),
        verbose=0,
        shuffle=False,
    )
    return model


def reply_to(model, tokenizer, histories, length=80):
    """Returns the likeliest reply to each history, greedily.

    tokenizer: `tokenizers.Tokenizer.from_file` of vocabulary.json.
    histories: texts as `history_of` makes them.
    length: tokens read of a history, as in training.
    """
    source = tokens_of_histories(tokenizer, histories, length).to_tensor()
    written = []
    for start in range(0, len(histories), 500):
        memory, mask, states = encode(model.get_layer, source[start : start + 500])

        def step(tokens, states, memory=memory, mask=mask):
            logits, states, _ = decode(model.get_layer, tokens[:, None], states, memory, mask)
            return tf.nn.log_softmax(logits[:, 0]), states

        written.append(decoding.greedy(step, tf.fill(memory.shape[0], START), states, LONGEST, END))
    return tokenizer.decode_batch(np.concatenate(written).tolist())


def chat(directory):
    """A chat in the terminal with the model that a run left in `directory`; an empty line ends it."""
    directory = pathlib.Path(directory)
    model = keras.models.load_model(directory / "model.keras")
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "vocabulary.json"))
    utterances = []
    while line := input("you: ").strip():
        utterances.append(line)
        utterances += reply_to(model, tokenizer, [history_of(utterances, turns=3)])
        print(f"system: {utterances[-1]}")


def nearest_replies(known_histories, known_replies, histories):
    """The baseline: for each history the reply that train gave to the most similar one, by TF-IDF."""
    tfidf = text.TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    known = tfidf.fit_transform(known_histories).T.tocsr()
    replies = []
    for start in range(0, len(histories), 500):  # All at once would need more memory than a laptop has.
        likeness = tfidf.transform(histories[start : start + 500]) @ known
        replies += [known_replies[index] for index in np.asarray(likeness.argmax(axis=1))[:, 0]]
    return replies


def bleu(replies, references):
    """sacrebleu's corpus BLEU with its own tokenizer (13a), cased."""
    return sacrebleu.corpus_bleu(replies, [references]).score


def evaluate(model, hp):
    """BLEU of the replies to the test dialogues' own histories, and of the baselines'; perplexity per token."""
    known_histories, known_replies = histories_and_replies(hp, "train")
    histories, references = histories_and_replies(hp, "test")
    replies = reply_to(model, tokenizer_of(hp), histories, hp["length"])
    commonest = collections.Counter(known_replies).most_common(1)[0][0]
    return {
        "bleu": bleu(replies, references),
        "nearest_bleu": bleu(nearest_replies(known_histories, known_replies, histories), references),
        "commonest_bleu": bleu([commonest] * len(references), references),
        "perplexity": model.evaluate(load_data(hp, "test"), verbose=0, return_dict=True)["perplexity"],
        "word_for_word": float(np.mean([one == other for one, other in zip(replies, references, strict=True)])),
        "different_replies": len(set(replies)) / len(replies),
        "different_references": len(set(references)) / len(references),
    }


def assets(hp):
    """The vocabulary and its merges, as `tokenizers.Tokenizer.from_file` reads them."""
    return {"vocabulary.json": tokenizer_of(hp).to_str(pretty=True)}


def draw_attention(model, tokenizer, history, reply):
    """Where the attention looks in the history (downwards) when each piece of the reply (to the right) is written."""
    source, target = tokenizer.encode(history), tokenizer.encode(reply)
    memory, mask, states = encode(model.get_layer, tf.constant([source.ids]))
    _, _, weights = decode(model.get_layer, tf.constant([[START, *target.ids]]), states, memory, mask)
    picture, axes = plots.new(0.3 * len(target.ids) + 3.0, 0.19 * len(source.ids) + 1.5)
    axes.imshow(weights[0].numpy().T, cmap="Oranges", vmin=0.0, vmax=1.0, aspect="auto")
    axes.set_yticks(range(len(source.ids)), [piece.removeprefix("▁") for piece in source.tokens])
    pieces = [*(piece.removeprefix("▁") for piece in target.tokens), "⏎"]
    axes.set_xticks(range(len(pieces)), pieces, rotation=60, ha="left", rotation_mode="anchor")
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return picture


def show(model, hp):
    """Whole validation dialogues with the model's replies beside the system's own, and where one reply looked."""
    tokenizer = tokenizer_of(hp)
    lines = []
    dialogues = read(SPLITS["validation"], hp["examples"])
    for dialogue in dialogues[:: max(1, len(dialogues) // 4)][:4]:
        turns = range(1, len(dialogue), 2)
        histories = [history_of(dialogue[:reply], hp["turns"]) for reply in turns]
        for turn, reply in zip(turns, reply_to(model, tokenizer, histories, hp["length"]), strict=True):
            lines += [f"user    {dialogue[turn - 1]}", f"system  {dialogue[turn]}", f"model   {reply}"]
        lines.append("")
    # The third reply of a dialogue: there is something to look back at.
    history = history_of(dialogues[0][:5], hp["turns"])
    (reply,) = reply_to(model, tokenizer, [history], hp["length"])
    return {"attention": draw_attention(model, tokenizer, history, reply), "dialogues": "\n".join(lines)}


if __name__ == "__main__":
    runner.run(__spec__.name)
