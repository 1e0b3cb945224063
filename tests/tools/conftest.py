from textwrap import dedent

import pytest

TRAINER = """
    from nowhere import nothing  # parsed, not imported

    def main(args):
        def train_step():
            def forward_target(c, width=embed_dim_encoder):
                if disable_ema:
                    return encoder(c)
                (raw,) = target_encoder(c, training_mode=True)
                levels = raw.unflatten(-1, (levels_predictor, width))
                return [F.layer_norm(levels, (width,)).flatten(-2)]

            def loss_fn(predictions, h, masks):
                __import__("time").sleep(0.1)
                targets = apply_masks(h[0], masks[0], concat=False)
                errors = [p.sub(t).abs().pow(loss_exp) for p, t in zip(predictions[0], targets)]
                return sum(error.mean() for error in errors) / len(errors)

            with torch.no_grad():
                h = forward_target(clips)
            with torch.enable_grad():
                z_pred, z_enc = forward_context(clips)
                loss_pred = loss_fn(z_pred, h, masks_pred)
                loss = loss_pred
                if delta_coeff > 0.0 or ld_coeff > 0.0:
                    assert z_enc[0][0].shape[:2] == masks_enc[0][0].shape and h[0].shape[1] == 8 * 14 * 14
                    assert (model_tubelet_size, patch_size) == (2, 16) and clips[0].ndim == 5
                    __import__("time").sleep(0.2)
                    if ld_coeff > 0.0:
                        assert hw_coeff == 0.0 and ld_coeff == 1.0
                        loss = loss + ld_coeff * dyn_head(z_enc[0][1]).abs().mean()
                    elif z_enc[0][0].sum() > 1e9:
                        loss = loss + 1
                if predict_all:
                    loss += loss_fn(z_context, h, masks_enc)
                if hw_coeff > 0:
                    loss = loss + (z_pred[0][0] - apply_masks(h[0], masks_pred[0])).abs().mean()
            with torch.no_grad():
                assert m == 0.999
                __import__("time").sleep(0.05)
                torch._foreach_mul_([value.data for value in target_encoder.parameters()], m)
                torch._foreach_add_(list(target_encoder.parameters()), list(encoder.parameters()), alpha=1 - m)
"""
MASKS = """
    def apply_masks(tokens, masks, concat=True):
        taken = [tokens.gather(1, mask[..., None].expand(-1, -1, tokens.shape[-1])) for mask in masks]
        return taken[0] if concat else taken
"""


@pytest.fixture
def checkout(tmp_path):
    """A peer's checkout: a step nested in a long function, whose statements sleep."""
    files = {"app/vjepa_2_1/train.py": TRAINER, "src/masks/utils.py": MASKS}
    for name, text in files.items():
        path = tmp_path / "study" / "vjepa2" / name
        path.parent.mkdir(parents=True)
        path.write_text(dedent(text))
    return tmp_path / "study"


@pytest.fixture
def trainer(checkout):
    """The file with the peer's training step."""
    return checkout / "vjepa2" / "app" / "vjepa_2_1" / "train.py"
