"""ConfidNet learns the true-class probability, of a classifier that it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score
from torch import nn

from probml_tp import (
    BayesianModel,
    Categorical,
    Delta,
    MCDropout,
    MeanFieldNormal,
    Mixture,
    NormalPrior,
    fit,
)
from probml_tp.metrics.detection import failure_metrics
from probml_tp.models import lenet, mlp_classifier
from probml_tp.posterior import Posterior
from probml_tp.predictions.predictive import ClassificationPredictive
from probml_tp.scores import (
    ConfidNet,
    NetworkPass,
    fit_confidnet,
    max_probability,
    network_pass,
    true_class_probability,
)

PUBLISHED = {"start": "none", "standardize": False}
SMALL = {"hidden": (16, 16), "progress": False, **PUBLISHED}
UNTRAINED = {**SMALL, "epochs": 1, "lr": 1e-300}
"""A rate of 0 but for the name: the losses are those of the initial head."""


def noisy_blobs(size, seed):
    """Three overlapping classes on a circle, float64."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (size,), generator=generator)
    angle = 2 * math.pi * y / 3
    centres = torch.stack([angle.cos(), angle.sin()], -1)
    return (centres + 0.6 * torch.randn(size, 2, generator=generator)).double(), y


X, Y = noisy_blobs(300, 0)
X_VALIDATION, Y_VALIDATION = noisy_blobs(200, 1)
MODEL = mlp_classifier(2, hidden=(8, 6), num_classes=3, prior=NormalPrior(1.0), dtype=torch.float64)
MAP = fit(MODEL, Delta, (X, Y), epochs=60, lr=0.03, progress=False)
RUN = network_pass(MAP, X, features=True)
VALIDATION = network_pass(MAP, X_VALIDATION, features=True)
DATA = (RUN, Y, VALIDATION, Y_VALIDATION)


def errors_of(run, y):
    return run.predictive.predicted_class != y


def known_truth(x):
    """A probability of the true class that the features determine: errors are below 1/3."""
    return 0.1 + 0.8 * torch.sigmoid(3 * x[:, 0] * x[:, 1] + 1)


def known_pass(size, seed):
    """A pass whose true-class probabilities are :func:`known_truth` of the features."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 2, generator=generator)
    y, p = torch.randint(3, (size,), generator=generator), known_truth(x)
    probs = ((1 - p) / 2).unsqueeze(1).repeat(1, 3).scatter(1, y.unsqueeze(1), p.unsqueeze(1))
    votes = torch.ones(size, 3)
    predictive = ClassificationPredictive(1, None, probs, torch.zeros(size), votes)
    return NetworkPass(MAP, x, predictive, x), y


def learn_known_truth(of_others):
    """How far off the estimates are at fresh points, their average precision, the share of errors.

    With ``of_others`` every point has the features of another one.
    """
    passes = [known_pass(size, seed) for seed, size in enumerate((2000, 500, 1000))]
    if of_others:
        passes = [(replace(run, features=run.features.roll(1, 0)), y) for run, y in passes]
    (train, y), (validation, y_validation), (fresh, labels) = passes
    options = {"hidden": (64, 64), "epochs": 30, "lr": 3e-3, "progress": False, **PUBLISHED}
    confidnet = fit_confidnet(train, y, validation, y_validation, **options)
    off = (confidnet.estimate(fresh) - known_truth(fresh.inputs)).abs().mean()
    errors = errors_of(fresh, labels)
    precision = average_precision_score(errors, -confidnet(fresh))
    return float(off), precision, float(errors.double().mean())


def test_the_head_learns_the_true_class_probability():
    off, precision, share = learn_known_truth(of_others=False)
    assert off < 0.02
    assert precision > 0.95 > 4 * share


def test_nothing_is_learnt_from_the_features_of_other_points():
    """The negative control."""
    off, precision, share = learn_known_truth(of_others=True)
    assert off > 0.1
    assert precision < 1.5 * share


@pytest.mark.parametrize(
    "make",
    [
        Delta,
        lambda m: MCDropout(m, rates=0.4),
        lambda m: MeanFieldNormal(m, init_scale=0.5),
        lambda m: Mixture(m, member=Delta, members=3),
    ],
)
@pytest.mark.parametrize("error_weight", [1.0, 7.0])
def test_targets_are_the_posteriors_probabilities_and_errors_weigh_more(make, error_weight):
    posterior = Posterior(make(MODEL), seed=2)
    if posterior.guide.num_atoms == 3:
        with torch.no_grad():
            for number, member in enumerate(posterior.guide.members):
                member.loc.mul_(1 + 0.5 * number)
    run = network_pass(posterior, X, num_samples=3, features=True)
    each = [
        MODEL.outputs({n: v[s] for n, v in posterior.draws(3).items()}, X).softmax(-1)
        for s in range(3)
    ]
    mean = torch.stack(each).mean(0)
    p_true = mean[torch.arange(len(Y)), Y]
    torch.testing.assert_close(true_class_probability(run, Y).exp(), p_true)
    confidnet = fit_confidnet(run, Y, run, Y, error_weight=error_weight, **UNTRAINED)
    squares = (confidnet.estimate(run) - p_true).square()
    wrong = mean.argmax(-1) != Y
    expected = (squares[~wrong].sum() + error_weight * squares[wrong].sum()) / len(Y)
    assert 0 < wrong.sum() < len(Y)
    assert confidnet.best.train_loss == pytest.approx(float(expected), rel=1e-9)
    assert confidnet.best.validation_loss == pytest.approx(float(expected), rel=1e-9)


def test_the_best_epoch_is_kept_by_validation_aupr_and_is_not_the_last():
    """The bug of published solutions: the best so far forgotten after each epoch."""
    by_aupr = {"select_by": "aupr-error", **SMALL}
    confidnet = fit_confidnet(*DATA, epochs=25, lr=0.02, batch_size=32, **by_aupr)
    areas = [epoch.validation_aupr_error for epoch in confidnet.history]
    assert len(areas) == 25
    assert confidnet.selected_by == "aupr-error"
    assert confidnet.chosen == areas.index(max(areas)) != 24
    assert areas[24] < max(areas) - 0.01
    errors = errors_of(VALIDATION, Y_VALIDATION)
    assert average_precision_score(errors, -confidnet(VALIDATION)) == max(areas)


def test_the_loss_chooses_if_asked_to():
    options = {"epochs": 25, "lr": 0.02, "batch_size": 32, **SMALL}
    confidnet = fit_confidnet(*DATA, **options)
    losses = [epoch.validation_loss for epoch in confidnet.history]
    assert confidnet.selected_by == "loss"
    assert confidnet.chosen == losses.index(min(losses))
    assert confidnet.chosen != fit_confidnet(*DATA, select_by="aupr-error", **options).chosen


@pytest.mark.parametrize("all_wrong", [False, True])
def test_without_errors_or_hits_the_validation_loss_chooses_and_the_record_says_so(all_wrong):
    labels = (VALIDATION.predictive.predicted_class + all_wrong) % 3
    by_aupr = {"select_by": "aupr-error", **SMALL}
    confidnet = fit_confidnet(RUN, Y, VALIDATION, labels, epochs=8, lr=0.02, **by_aupr)
    losses = [epoch.validation_loss for epoch in confidnet.history]
    assert confidnet.selected_by == "loss"
    assert confidnet.options["select_by"] == "aupr-error"
    assert {epoch.validation_aupr_error for epoch in confidnet.history} == {None}
    assert confidnet.chosen == losses.index(min(losses))


# ------------------------------------------------------------------------- where training starts


def digits(size):
    """The 8x8 digits in three parts, the first of ``size`` points."""
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = torch.from_numpy(x[order] / 16).float(), torch.from_numpy(y[order]).long()
    ends = (slice(0, size), slice(size, 2 * size), slice(2 * size, 1797))
    return [(x[part], y[part]) for part in ends]


def ranking(confidence, run, y):
    return failure_metrics(confidence, ~errors_of(run, y))["auroc"]


def test_the_defaults_do_not_lose_to_the_largest_probability():
    """Of an interpolating net, which has no errors to learn from; the published recipe loses."""
    parts = digits(200)
    model = mlp_classifier(64, hidden=(30,), num_classes=10, prior=NormalPrior(1.0))
    posterior = fit(model, Delta, parts[0], epochs=100, lr=0.02, progress=False)
    (train, y), (held_out, y_held_out), (new, labels) = (
        (network_pass(posterior, x, features=True), y) for x, y in parts
    )
    assert not errors_of(train, y).any()
    largest = ranking(max_probability(new), new, labels)
    data, quick = (train, y, held_out, y_held_out), {"epochs": 15, "progress": False}
    ours = ranking(fit_confidnet(*data, **quick)(new), new, labels)
    published = fit_confidnet(*data, lr=1e-4, select_by="aupr-error", **quick, **PUBLISHED)
    assert ours > largest - 0.005
    assert ranking(published(new), new, labels) < largest - 0.05


def test_from_the_start_it_is_the_largest_probability():
    confidnet = fit_confidnet(*DATA, hidden=(8,), epochs=2, lr=1e-300, progress=False)
    assert [epoch.step for epoch in confidnet.history] == ["start", "head", "head"]
    assert confidnet.chosen == 0
    assert confidnet.best.step == "start"
    torch.testing.assert_close(confidnet.estimate(VALIDATION), VALIDATION.predictive.confidence)
    mean, scale = RUN.features.mean(0), RUN.features.std(0, correction=0)
    torch.testing.assert_close(confidnet.network.shift, mean)
    torch.testing.assert_close(confidnet.network.scale, torch.where(scale > 0, scale, 1.0))


def test_an_epoch_replaces_the_start_only_where_it_improves_beyond_noise():
    """With errors that the features tell, and not with the features of other points."""
    (train, y), (validation, y_validation) = known_pass(2000, 0), known_pass(500, 1)
    options = {"hidden": (64, 64), "epochs": 10, "lr": 3e-3, "progress": False}
    learnt = fit_confidnet(train, y, validation, y_validation, **options)
    assert learnt.best.step == "head"
    assert learnt.best.validation_loss < 0.5 * learnt.history[0].validation_loss
    others = [replace(run, features=run.features.roll(1, 0)) for run in (train, validation)]
    nothing = fit_confidnet(others[0], y, others[1], y_validation, **options)
    start = nothing.history[0].validation_loss
    assert nothing.best.step == "start" or nothing.best.validation_loss < start


# ----------------------------------------------------------------------------------------- cloning


def state(posterior):
    tensors = {**posterior.guide.state_dict(), **posterior.model.state_dict()}
    return {name: tensor.clone() for name, tensor in tensors.items()}


def test_a_cloned_encoder_starts_where_the_classifier_is():
    still = fit_confidnet(*DATA, epochs=1, cloning_epochs=1, cloning_lr=1e-300, lr=1e-300, **SMALL)
    encoder = fit_confidnet(
        *DATA, epochs=1, lr=1e-300, cloning_epochs=3, cloning_lr=0.01, select_by="loss", **SMALL
    ).network.encoder
    assert still.history[0].validation_loss == pytest.approx(still.history[1].validation_loss)
    assert still.history[0].train_loss == pytest.approx(still.history[1].train_loss)
    assert (encoder(X) - RUN.features).abs().max() > 1e-3  # and is trained from there


def test_cloning_improves_on_the_best_head_and_leaves_the_classifier_as_it_was():
    before, features, probs = state(MAP), RUN.features.clone(), RUN.predictive.probs.clone()
    options = {"epochs": 4, "lr": 1e-3, "select_by": "loss"}
    head = fit_confidnet(*DATA, **options, **SMALL)
    both = fit_confidnet(*DATA, **options, cloning_epochs=10, cloning_lr=3e-3, **SMALL)
    assert both.history[:4] == head.history
    assert [epoch.step for epoch in both.history] == ["head"] * 4 + ["cloning"] * 10
    assert both.chosen >= 4
    assert both.best.validation_loss < head.best.validation_loss
    judged = network_pass(MAP, X_VALIDATION)  # no features: it makes its own
    assert both(judged).shape == (200,)
    assert all(torch.equal(before[name], value) for name, value in state(MAP).items())
    assert torch.equal(features, RUN.features)
    assert torch.equal(probs, network_pass(MAP, X).predictive.probs)


def test_a_head_that_cloning_only_spoils_is_kept():
    head = fit_confidnet(*DATA, epochs=6, lr=3e-3, **SMALL)
    both = fit_confidnet(*DATA, epochs=6, lr=3e-3, cloning_epochs=3, cloning_lr=3.0, **SMALL)
    assert len(both.history) == 9
    assert both.chosen == head.chosen
    assert both.network.encoder is None
    assert torch.equal(both(VALIDATION), head(VALIDATION))


def test_dropout_stays_off():
    """In a net's own layers, and in the guide: cloning takes features with no unit dropped."""
    net = nn.Sequential(
        nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    model = BayesianModel(net.double(), NormalPrior(1.0), Categorical(3))
    dropout = MCDropout(model, rates=0.5)
    off = network_pass(Posterior(Delta.at_centre(dropout)), X, features=True)
    confidnet = fit_confidnet(
        off, Y, off, Y, epochs=1, cloning_epochs=2, cloning_lr=1e-2, select_by="loss", **SMALL
    )
    encoder = confidnet.network.encoder
    assert not any(m.training for m in encoder.modules() if isinstance(m, nn.Dropout))
    assert torch.equal(confidnet(off), confidnet(off))
    on = network_pass(Posterior(dropout), X, num_samples=5, features=True)
    with pytest.raises(ValueError, match=r"mc-dropout.*mean over draws.*Delta.at_centre"):
        fit_confidnet(on, Y, on, Y, cloning_epochs=1, **SMALL)
    mixed = replace(on, features=off.features)  # targets of the mean, features with dropout off
    assert fit_confidnet(mixed, Y, mixed, Y, epochs=1, cloning_epochs=1, **SMALL).history


def test_an_ensemble_stops_after_the_head():
    ensemble = Posterior(Mixture(MODEL, member=Delta, members=2))
    run = network_pass(ensemble, X, features=True)
    assert fit_confidnet(run, Y, run, Y, epochs=2, **SMALL)(run).shape == (300,)
    told = []
    with pytest.raises(ValueError, match=r"guide with a centre; the deep-ensemble"):
        fit_confidnet(
            run, Y, run, Y, hidden=(4,), cloning_epochs=1, progress=lambda *args: told.append(args)
        )
    assert told == []  # not after 50 epochs


def test_images_and_single_precision():
    x = torch.rand(40, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    y = torch.arange(40) % 10
    posterior = Posterior(Delta(lenet(prior=NormalPrior(1.0))))
    run = network_pass(posterior, x, features=True)
    confidnet = fit_confidnet(
        run, y, run, y, epochs=1, cloning_epochs=2, cloning_lr=1e-3, select_by="loss", **SMALL
    )
    assert confidnet.network.encoder is not None
    assert confidnet(run).dtype == torch.float64
    changed = confidnet.network.encoder.net.conv1.weight != posterior.model.net.conv1.weight
    assert changed.any()


# ----------------------------------------------------------------------------------- as a citizen


def test_the_seed_determines_it_and_the_global_state_is_left_alone():
    options = {**SMALL, "epochs": 2, "cloning_epochs": 1, "cloning_lr": 1e-3, "select_by": "loss"}
    before = torch.get_rng_state()
    one = fit_confidnet(*DATA, seed=4, **options)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    two = fit_confidnet(*DATA, seed=4, **options)
    other = fit_confidnet(*DATA, seed=5, **options)
    assert one.history == two.history != other.history
    assert torch.equal(one(VALIDATION), two(VALIDATION))


def test_it_is_a_confidence_without_ties_near_one():
    confidnet = fit_confidnet(*DATA, epochs=2, **SMALL)
    with torch.no_grad():
        confidnet.network.head[-1].bias.fill_(60.0)
    confidence = confidnet(VALIDATION)
    assert (confidnet.network.logits(VALIDATION.features).float().sigmoid() == 1).all()
    assert (confidence < 0).all()
    assert len(confidence.unique()) == len(confidence)
    logits = confidnet.network.logits(VALIDATION.features)
    assert torch.equal(confidence.argsort(), logits.argsort())


def test_progress_is_reported_for_every_epoch():
    told = []
    fit_confidnet(
        *DATA, hidden=(4,), epochs=2, cloning_epochs=1, progress=lambda *args: told.append(args)
    )
    assert [args[:2] for args in told] == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize("cloning_epochs", [0, 2])
def test_it_can_be_saved_and_loaded(tmp_path, cloning_epochs):
    saved = fit_confidnet(
        *DATA, epochs=1, cloning_epochs=cloning_epochs, cloning_lr=0.01, select_by="loss", **SMALL
    )
    before = torch.get_rng_state()
    loaded = ConfidNet.load(saved.save(tmp_path / "confidnet"), MODEL)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(loaded(VALIDATION), saved(VALIDATION))
    assert loaded.history == saved.history
    assert loaded.options == saved.options
    assert (loaded.chosen, loaded.selected_by) == (saved.chosen, saved.selected_by)
    assert (loaded.network.encoder is None) == (cloning_epochs == 0)


def test_a_file_of_something_else_is_refused(tmp_path):
    with pytest.raises(ValueError, match="readable safetensors file; .*none"):
        ConfidNet.load(tmp_path / "none.safetensors", MODEL)
    with pytest.raises(ValueError, match=r"must have the format.*confidnet"):
        ConfidNet.load(MAP.save(tmp_path / "map"), MODEL)
    cloned = fit_confidnet(
        *DATA, epochs=1, cloning_epochs=1, cloning_lr=0.01, select_by="loss", **SMALL
    ).save(tmp_path / "cloned")
    other = mlp_classifier(2, hidden=(5, 6), num_classes=3, prior=NormalPrior(1.0))
    with pytest.raises(ValueError, match="a classifier like"):
        ConfidNet.load(cloned, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run_train": network_pass(MAP, X)}, "features=True"),
        ({"run_validation": network_pass(MAP, X_VALIDATION)}, "features=True"),
        ({"y_train": Y[:-1]}, "one label from 0 to 2 for each of the 300"),
        ({"y_validation": Y_VALIDATION + 1}, "one label from 0 to 2"),
        (
            {"run_validation": replace(VALIDATION, features=VALIDATION.features[:, :5])},
            "fitted to 6 features and got 5",
        ),
        ({"epochs": 0}, "epochs must be an integer of at least 1"),
        ({"hidden": (4, 0)}, "hidden must be an integer of at least 1"),
        ({"lr": -1.0}, "lr must be a positive"),
        ({"batch_size": 0}, "batch_size"),
        ({"error_weight": 0.0}, "error_weight must be a positive"),
        ({"cloning_epochs": -1}, "cloning_epochs"),
        ({"cloning_lr": math.nan}, "cloning_lr"),
        ({"select_by": "auroc"}, "select_by must be one of"),
        ({"seed": -1}, "seed must be"),
        (
            {"run_train": replace(RUN, features=RUN.features * torch.inf), "epochs": 1},
            "loss must stay finite",
        ),
    ],
)
def test_bad_input_is_refused_with_its_remedy(change, message):
    names = ("run_train", "y_train", "run_validation", "y_validation")
    with pytest.raises(ValueError, match=message):
        fit_confidnet(**{**dict(zip(names, DATA, strict=True)), **SMALL, **change})


def test_a_pass_of_another_posterior_is_refused():
    confidnet = fit_confidnet(*DATA, epochs=1, **SMALL)
    with pytest.raises(ValueError, match="features=True"):
        confidnet(network_pass(MAP, X))
    ensemble = network_pass(Posterior(Mixture(MODEL, member=Delta, members=2)), X, features=True)
    with pytest.raises(ValueError, match=r"6 features and got 12.*deep-ensemble"):
        confidnet(ensemble)


def test_the_head_alone_is_what_a_fit_without_cloning_gives():
    options = {"epochs": 4, "lr": 0.01, "batch_size": 32, **SMALL}
    alone = fit_confidnet(*DATA, **options)
    both = fit_confidnet(*DATA, cloning_epochs=3, cloning_lr=0.01, **options)
    assert alone.after_head is None
    assert both.after_head.history == alone.history == both.history[:4]
    assert torch.equal(both.after_head(VALIDATION), alone(VALIDATION))
    assert [epoch.step for epoch in both.history[4:]] == ["cloning"] * 3
