"""The fast tier: the same model with its guidance passes computed together, in fused operations.

What it computes is what `runners.ltx23.transformer` computes, rounded at other places: limits and the oracle judge it,
not bits. Budget on one H200, 121 frames of 768 x 512, a guided step of four passes: products 0.73 s at 750 TFLOP/s,
attention 0.22 s at 550 TFLOP/s, elementwise 0.06 s for 1.5 GB a block and pass at 4 TB/s; 1.08 s in all is the target.
"""
