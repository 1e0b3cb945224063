"""Terms without a recording, against their definitions in float64, with dense grids and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from hpc_jepa.kernels.directions import random_directions
from hpc_jepa.objectives import build_objective

WIDTH, LEVELS = 8, 4


def dense(latents, group, features):
    """Context features [B, K, D] on the grid [B, T, P, D] in float64, and which cells are filled [B, T, P]."""
    masks, grid = latents.masks[group], latents.grid
    batch, _, width = features.shape
    values = np.zeros((batch, grid.tokens, width))
    filled = np.zeros((batch, grid.tokens), bool)
    for b, row in enumerate(masks.context.tolist()):
        values[b, row] = features[b].detach().double().numpy()
        filled[b, row] = True
    shape = (batch, grid.time, grid.cells)
    return values.reshape(*shape, width), filled.reshape(shape)


def target_grid(latents):
    target = latents.target.detach().double().numpy()
    return target.reshape(len(target), latents.grid.time, latents.grid.cells, -1)


def pair_mean(latents, error):
    """``error(S, Y, b, t, p)`` averaged over the valid pairs of each group, then over groups."""
    means = []
    for group, features in enumerate(latents.student):
        values, filled = dense(latents, group, features)
        valid = filled[:, :-1] & filled[:, 1:]
        target = target_grid(latents)
        errors = [error(values, target, b, t, p) for b, t, p in np.argwhere(valid)]
        if errors:
            means.append(np.mean(errors))
    return float(np.mean(means))


def value(name, latents, term, **overrides):
    objective = build_objective(name, width=WIDTH, levels=LEVELS, grid=latents.grid, semantics="published", **overrides)
    return objective, objective(latents)[term].item()


def cosine(a, b):
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


def test_temporal_contrast_is_a_hinge_on_two_cosines(recorded):
    latents, _ = recorded
    expected = pair_mean(
        latents,
        lambda s, y, b, t, p: max(0, 0.5 - cosine(s[b, t, p], y[b, t, p]) + cosine(s[b, t, p], y[b, t + 1, p])),
    )
    assert value("ltc", latents, "ltc")[1] == pytest.approx(expected, rel=1e-5)


def test_the_velocity_gate_is_the_median_of_the_whole_tubelet(recorded):
    latents, _ = recorded
    target = target_grid(latents)
    speed = np.linalg.norm(target[:, 1:] - target[:, :-1], axis=-1)
    threshold = np.quantile(speed, 0.5, axis=-1)

    def error(s, y, b, t, p):
        return (speed[b, t, p] <= threshold[b, t]) * np.abs(s[b, t + 1, p] - s[b, t, p]).mean()

    assert value("velgate", latents, "velgate")[1] == pytest.approx(pair_mean(latents, error), rel=1e-5)


def test_huber_is_quadratic_within_a_tenth(recorded):
    latents, _ = recorded
    change = np.diff(target_grid(latents) * 0.2, axis=1)
    expected = np.where(np.abs(change) < 0.1, change**2 / 2, 0.1 * (np.abs(change) - 0.05)).mean()
    smaller = replace(latents, target=latents.target * 0.2)
    assert value("kinematic_huber", smaller, "kinematic")[1] == pytest.approx(expected, rel=1e-5)


def test_action_decodes_the_change_of_mean_colour(recorded, golden):
    latents, _ = recorded
    objective, found = value("ac", latents, "ac", ac={"hidden": 16})
    head = objective.auxiliary["ac"].head.double()
    tubelet, patch = int(golden["tubelet"]), int(golden["patch"])
    pixels = golden["pixels"].double().numpy()
    grid = latents.grid
    colour = np.zeros((len(pixels), grid.time, grid.cells, 3))
    for t in range(grid.time):
        for y in range(grid.height):
            for x in range(grid.width):
                box = pixels[:, :, t * tubelet :, y * patch :, x * patch :][:, :, :tubelet, :patch, :patch]
                colour[:, t, y * grid.width + x] = box.mean((2, 3, 4))

    def error(s, y, b, t, p):
        with torch.no_grad():
            decoded = head(torch.from_numpy(s[b, t, p])).numpy()
        return np.abs(decoded - (colour[b, t + 1, p] - colour[b, t, p])).mean()

    assert found == pytest.approx(pair_mean(latents, error), rel=1e-5)


def test_hamiltonian_takes_one_symplectic_step(recorded):
    latents, _ = recorded
    objective, found = value("hamiltonian", latents, "hamiltonian", hamiltonian={"hidden": 16, "dt": 0.3})
    energy = objective.auxiliary["hamiltonian"].energy.double()
    half = WIDTH * LEVELS // 2

    def slopes(q, p):
        q, p = torch.from_numpy(q).requires_grad_(), torch.from_numpy(p).requires_grad_()
        return [g.numpy() for g in torch.autograd.grad(energy(torch.cat([q, p])).sum(), (q, p))]

    def error(s, y, b, t, place):
        q, p = s[b, t, place, :half], s[b, t, place, half:]
        moved_q = q + 0.3 * slopes(q, p)[1]
        moved_p = p - 0.3 * slopes(moved_q, p)[0]
        later = y[b, t + 1, place]
        return np.abs(moved_q - later[:half]).mean() + np.abs(moved_p - later[half:]).mean()

    assert found == pytest.approx(pair_mean(latents, error), rel=1e-5)


def test_sigreg_is_the_epps_pulley_statistic_of_its_projections(recorded):
    latents, _ = recorded
    rows = torch.cat([student.detach().flatten(0, 1) for student in latents.student])
    directions = random_directions(rows, 64, latents.step).double().numpy()
    np.testing.assert_allclose(np.linalg.norm(directions, axis=0), 1, rtol=1e-6)
    projected = rows.double().numpy() @ directions
    t = np.linspace(0, 3, 17)
    phi = np.exp(-(t**2) / 2)
    error = (np.cos(projected[..., None] * t).mean(0) - phi) ** 2 + np.sin(projected[..., None] * t).mean(0) ** 2
    statistic = 2 * np.trapezoid(error * phi, t, axis=-1).mean()
    found = value("sigreg", latents, "sigreg", sigreg={"projections": 64})[1]
    assert found == pytest.approx(len(rows) * statistic, rel=1e-4)
    corrected = build_objective("sigreg", width=WIDTH, levels=LEVELS, grid=latents.grid, sigreg={"projections": 64})
    assert corrected(latents)["sigreg"].item() == pytest.approx(statistic, rel=1e-4)


def test_infonce_is_the_cross_entropy_of_cosines(recorded):
    latents, _ = recorded
    found = value("ltc_infonce", latents, "ltc_infonce", ltc_infonce={"anchors": 5, "temperature": 0.2})[1]
    losses = []
    for group, student in enumerate(latents.student):
        masks, size = latents.masks[group], student.shape[1]
        chosen = [i * size // 5 for i in range(5)]
        flat = [(b, k) for b in range(len(student)) for k in chosen]
        target = latents.target.detach().double().numpy()
        anchor = np.stack([student[b, k].detach().double().numpy() for b, k in flat])
        tokens = masks.context.tolist()
        now = np.stack([target[b, tokens[b][k]] for b, k in flat])
        unit = lambda rows: rows / np.linalg.norm(rows, axis=-1, keepdims=True)  # noqa: E731
        scores = unit(anchor) @ unit(now).T / 0.2
        for row, (b, k) in enumerate(flat):
            candidates = list(scores[row])
            if masks.next_in_context[b, k] >= 0:
                later = target[b, tokens[b][k] + latents.grid.cells]
                candidates.append(cosine(anchor[row], later) / 0.2)
            losses.append((np.log(np.exp(candidates).sum()) - scores[row, row]) / 2)
            losses.append((np.log(np.exp(scores[:, row]).sum()) - scores[row, row]) / 2)
    groups = np.split(np.array(losses), 2)
    assert found == pytest.approx(np.mean([group.sum() / (len(group) / 2) for group in groups]), rel=1e-5)


def test_forecast_pairs_go_from_the_last_context_tubelet_to_the_next(recorded):
    latents, _ = recorded
    objective, found = value("ld", latents, "ld", ld={"hidden": 16, "pairs": "forecast"})
    head = objective.auxiliary["ld"].head.double()
    target, means = target_grid(latents), []
    for group, features in enumerate(latents.student):
        values, filled = dense(latents, group, features)
        errors = []
        for b in range(len(values)):
            last = np.argwhere(filled[b].any(1)).max()
            if last + 1 < latents.grid.time:
                for p in np.argwhere(filled[b, last])[:, 0]:
                    with torch.no_grad():
                        decoded = head(torch.from_numpy(values[b, last, p])).numpy()
                    errors.append(np.abs(decoded - (target[b, last + 1, p] - target[b, last, p])).mean())
        if errors:
            means.append(np.mean(errors))
    expected = float(np.mean(means)) if means else 0.0
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_the_context_loss_is_an_absolute_error_with_or_without_distance_weights(recorded, weighted):
    latents, _ = recorded
    width = latents.target.shape[-1] // LEVELS
    target = latents.target.double().unflatten(-1, (LEVELS, width))
    target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    means = []
    for prediction, masks in zip(latents.context_prediction, latents.masks, strict=True):
        rows = masks.context[..., None, None].expand(-1, -1, LEVELS, width)
        error = (prediction.double() - target.gather(1, rows).flatten(-2)).abs().mean(-1)
        means.append((error / masks.context_distance.double() if weighted else error).mean())
    _, context = value("baseline", latents, "context", distance_weights=weighted)
    assert context == pytest.approx(torch.stack(means).mean().item(), rel=1e-4)
