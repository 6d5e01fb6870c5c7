"""Models by name: one table of ViT sizes, and timm for everything that is built.

The table and its prices are cheap to import; :func:`superbatch.models.build.build_model` is not
(it needs torch), so it is imported from its own module.
"""

from superbatch.models.variants import VARIANTS, ViTSize, parse_vit_name, vit_forward_flops


__all__ = ["VARIANTS", "ViTSize", "parse_vit_name", "vit_forward_flops"]
