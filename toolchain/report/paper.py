"""Table 3 of the paper: how often each method was chosen, per kind of site and model."""

from __future__ import annotations

COUNTS: dict[str, dict[str, dict[str, int]]] = {
    model: {
        "softmax": {"ibert": softmax[0], "fqvit": softmax[1], "ivit": softmax[2]},
        "gelu": {"ibert": gelu[0], "ivit": gelu[1]},
        "layernorm": {"ibert": norm[0], "fqvit": norm[1], "ivit": norm[2]},
    }
    # In the order of the paper's columns: I-BERT, FQ-ViT, I-ViT; I-BERT, I-ViT; as the first.
    for model, softmax, gelu, norm in (
        ("vit_s", (1, 7, 4), (12, 0), (2, 0, 23)),
        ("vit_b", (1, 8, 3), (12, 0), (0, 1, 24)),
        ("deit_t", (6, 4, 2), (3, 9), (13, 4, 8)),
        ("deit_s", (8, 1, 3), (11, 1), (23, 1, 1)),
        ("deit_b", (11, 0, 1), (11, 1), (2, 0, 23)),
        ("swin_t", (5, 0, 7), (11, 1), (18, 4, 3)),
        ("swin_s", (6, 15, 3), (18, 6), (11, 27, 11)),
    )
}
