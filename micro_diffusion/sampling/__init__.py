"""From a Denoiser to pictures: noise levels, samplers, guidance, and the pipeline that joins them."""
