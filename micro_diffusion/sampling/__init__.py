"""From a Denoiser to images: noise levels, samplers, guidance, and the pipeline that joins them."""
