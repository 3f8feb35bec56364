"""What BERT is trained on, and that its classifiers begin with what it has learned."""

import keras
import numpy as np
import pytest
from tokenizers import Tokenizer

from common.ngrams import count_vectors
from test_recipes import call

pytestmark = pytest.mark.parametrize("name", ["transformers.bert"])


def masked(recipe, share, tokens):
    """What a training step makes of tokens: those that the network reads, the places to fill in, and the answers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "train_step", lambda self, data: data)
        patch.setattr(recipe, "VOCABULARY_SIZE", 50)
        inputs = [keras.Input((None,), dtype="int32") for _ in range(4)]
        model = recipe.MaskedWords(inputs, inputs)
        model.cumulative = np.cumsum(np.arange(50) / 1_225).astype("float32")
        model.share, model.seed = share, keras.random.SeedGenerator(0)
        assert any(each is model.seed.state for each in model.variables)  # So that a resumed run restores it.
        for _ in range(2):
            (read, places, answers, candidates), right = model.train_step(tokens)
            assert right.shape == answers.shape and not np.any(right)  # The answer's logit comes first.
            assert candidates.shape == (recipe.CANDIDATES,)
            assert 30 < np.mean(candidates) < 36  # 33, as they are drawn by frequency.
            yield np.asarray(read), np.asarray(places), np.asarray(answers)


def test_a_share_of_the_places_is_masked_anew_in_every_step_by_the_paper_s_rule(recipe):
    tokens = np.random.default_rng(0).integers(len(recipe.RESERVED), 50, (400, recipe.LENGTH)).astype("int32")
    tokens[:, ::3] = recipe.SEPARATOR
    steps = list(masked(recipe, 0.15, tokens))
    assert not np.array_equal(steps[0][1], steps[1][1])
    for read, places, answers in steps:
        assert places.shape == (400, 19) and all(len(set(row)) == 19 for row in places)
        np.testing.assert_array_equal(answers, np.take_along_axis(tokens, places, axis=1))
        assert (answers >= len(recipe.RESERVED)).all()
        given = np.take_along_axis(read, places, axis=1)
        kinds = given == recipe.MASK, given == answers, (given != recipe.MASK) & (given != answers)
        np.testing.assert_allclose(np.mean(kinds, axis=(1, 2)), (0.8, 0.1, 0.1), atol=0.015)
        assert set(given[kinds[2]]) == set(range(len(recipe.RESERVED), 50))  # Any piece may be drawn.
        read = read.copy()
        np.put_along_axis(read, places, answers, axis=1)
        np.testing.assert_array_equal(read, tokens)


def test_the_answer_is_compared_with_others_by_the_base_s_logits_without_their_frequency(recipe, hp):
    fits = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(keras.Model, "fit", lambda model, batches, **options: fits.append((model, batches)))
        base = recipe.pretrain(hp)
    ((model, batches),) = fits
    tokens = next(iter(batches)).numpy()
    assert tokens.shape == (hp["batch_size"], recipe.LENGTH) and (tokens == recipe.SEPARATOR).any()
    places = np.random.default_rng(0).integers(recipe.LENGTH, size=(len(tokens), 5)).astype("int32")
    answers = np.take_along_axis(tokens, places, axis=1)
    given = np.take_along_axis(np.asarray(base(tokens)[1]), places[..., None], axis=1)  # (B, P, V)
    counts = np.bincount(recipe.rows_of_text(hp["examples"]).numpy().ravel(), minlength=recipe.VOCABULARY_SIZE)
    counts[: len(recipe.RESERVED)] = 0
    learned = given - np.log(np.maximum(counts, 0.01))
    np.testing.assert_allclose(np.diff(model.cumulative, prepend=0), counts / counts.sum(), atol=1e-5)
    candidates = np.append(answers[:, 0], [7, 7])
    expected = np.take_along_axis(learned, answers[..., None], axis=2), learned[..., candidates]
    found = call(model, [tokens, places, answers, candidates])
    np.testing.assert_allclose(found, np.concatenate(expected, axis=2), rtol=1e-3, atol=1e-3)
    assert (given[..., : len(recipe.RESERVED)] < given[..., len(recipe.RESERVED) :].max(axis=2)[..., None] - 5).all()


def test_pretraining_begins_with_counts_and_fine_tuning_with_the_base_and_a_regression(recipe, tiny_run, hp):
    begun = tiny_run.fits.first_weights
    rows = recipe.rows_of_text(hp["examples"]).numpy().ravel()
    vectors = count_vectors(rows, recipe.VOCABULARY_SIZE, hp["units"])
    assert any(each.shape == vectors.shape and np.allclose(each, vectors, atol=1e-5) for each in begun["masked-words"])
    base = tiny_run.models["base"]
    learned = keras.Model(base.input, base.outputs[0]).get_weights()
    for kind in ("fine-tuned", "scratch"):
        *encoder, _, bias = begun[f"{kind}-100"]  # The last two are the output layer's.
        same = [np.array_equal(*pair) for pair in zip(encoder, learned, strict=True) if pair[0].ndim > 1]
        assert len(same) > 5 and (all(same) if kind == "fine-tuned" else not any(same))
        assert bias != 0


def test_masked_pieces_are_counted_right_and_their_neighbours_are_those_beside_them(recipe, hp):
    tokens, parts, asked = recipe.prepare("test", hp["examples"])[0].to_tensor().numpy(), [], []

    def base(part):
        start = sum(map(len, parts))
        parts.append(part)
        return None, np.eye(recipe.VOCABULARY_SIZE, dtype="int8")[tokens[start : start + len(part)]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "score", lambda *arguments: {"fine-tuned-100": 0.6, "tfidf-100": 0.7})
        patch.setattr(recipe, "likeliest_between", lambda text, left, right, size: asked.append((left, right)) or left)
        found = recipe.evaluate({"base": base}, hp)
    read = np.concatenate(parts)
    masked = read == recipe.MASK
    rows, places = np.nonzero(masked)
    np.testing.assert_array_equal(asked[0], (tokens[rows, places - 1], tokens[rows, places + 1]))
    assert found["filled"] == 1 and found["counted"] == np.mean(asked[0][0] == tokens[masked])
    np.testing.assert_array_equal(read[~masked], tokens[~masked])
    assert 0.1 < masked.sum() / np.sum(tokens > 0) < 0.2 and not (masked[:, 1:] & masked[:, :-1]).any()
    assert (found["accuracy"], found["tfidf_accuracy"]) == (0.6, 0.7)


def test_a_pair_is_read_as_one_text_with_a_mark_between_and_its_order_does_not_matter_to_the_baseline(recipe, hp):
    tokens, features, labels = recipe.prepare("test", hp["examples"], "mrpc")
    assert all((row == recipe.SEPARATOR).sum() == 1 for row in tokens.numpy()) and set(labels) == {0, 1}
    texts = recipe.read("test", hp["examples"], "mrpc")[0]
    with pytest.MonkeyPatch.context() as patch:
        pairs = [(second, first) for first, second in texts] + [(first, first) for first, _ in texts]
        patch.setattr(recipe, "read", lambda *arguments: (pairs, labels))
        recipe.learn(hp["examples"]), recipe.learn(hp["examples"], "mrpc")  # From the texts read before.
        exchanged = recipe.prepare.__wrapped__("test", hp["examples"], "mrpc")[1]
    np.testing.assert_allclose(exchanged[: len(texts)].toarray(), features.toarray(), atol=1e-6)
    difference, cosine = np.split(exchanged[len(texts) :].toarray(), [features.shape[1] // 2], axis=1)
    assert not difference.any() and np.allclose(cosine[:, -1], 1)


def test_every_mask_in_a_text_is_filled_in_whatever_stands_around_it(recipe, tiny_run, hp):
    texts = ["a film", "a [MASK] film", "it was [MASK].", "[MASK] and[MASK]"]
    answers = recipe.predict(tiny_run.model, recipe.assets(hp), texts)
    assert [answer.count("[MASK] = ") for answer in answers] == [0, 1, 1, 2]
    tokenizer = Tokenizer.from_str(recipe.assets(hp)["tokenizer.json"])
    (probability,), logits = (
        np.asarray(each)[0] for each in tiny_run.model(np.array([tokenizer.encode(texts[1]).ids]))
    )
    likeliest = tokenizer.decode([logits[1].argmax()])
    assert answers[1].startswith("positive" if probability > 0.5 else "negative")
    assert f"[MASK] = {likeliest} (" in answers[1] and likeliest
    with pytest.raises(ValueError, match="no words"):
        recipe.predict(tiny_run.model, recipe.assets(hp), [" "])
