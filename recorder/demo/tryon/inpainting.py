"""The try-on pipeline: paints the garment of a reference picture onto a figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, UNet2DConditionModel
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils.torch_utils import randn_tensor
from transformers import CLIPVisionModel

from attlas.recorder.demo.tryon.inputs import Picture, as_list, mask_tensor, picture_tensor, uv_tensor
from attlas.recorder.demo.tryon.models import denoiser_condition

OUTPUT_TYPES = ("pil", "np", "pt", "latent")


class TryOnPipeline(DiffusionPipeline):  # type: ignore[misc]  # its bases are untyped
    """Paint the garment of a reference picture into a region of a figure picture.

    All tokens of the image encoder, CLS and every patch, are the keys of the denoiser's cross-attention, so the
    attention of a painted place over the reference patches can be compared with the true correspondence.

    Parameters
    ----------
    vae
        Encodes the figure and decodes the result.
    unet
        Predicts v from 19 channels: noisy latents 8, latents of the hidden figure 8, region 1, body map 2.
    image_encoder
        Reads the reference; its last hidden state goes to the cross-attention.
    scheduler
        DDIM with v-prediction, zero terminal signal-to-noise ratio and trailing steps.
    """

    model_cpu_offload_seq = "image_encoder->unet->vae"
    _callback_tensor_inputs = ("latents", "image_embeddings")

    vae: AutoencoderKL
    unet: UNet2DConditionModel
    image_encoder: CLIPVisionModel
    scheduler: DDIMScheduler

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        image_encoder: CLIPVisionModel,
        scheduler: DDIMScheduler,
    ) -> None:
        super().__init__()
        self.register_modules(vae=vae, unet=unet, image_encoder=image_encoder, scheduler=scheduler)
        self.vae_scale_factor: int = 2 ** (len(vae.config.block_out_channels) - 1)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae_scale_factor)
        self._guidance_scale = 1.0
        self._num_timesteps = 0
        self._interrupt = False

    @property
    def picture_size(self) -> int:
        """Pixels along each side of every picture that goes in or comes out."""
        return int(self.unet.config.sample_size) * self.vae_scale_factor

    @property
    def guidance_scale(self) -> float:
        """Of the present or the last call."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        """Whether the denoiser sees ``[uncond, cond]``; from a scale above 1."""
        return self._guidance_scale > 1

    @property
    def num_timesteps(self) -> int:
        """Denoiser calls of the present or the last call."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Set to True by a callback to skip the remaining steps."""
        return self._interrupt

    def encode_reference(self, pictures: torch.Tensor) -> torch.Tensor:
        """Tokens of reference pictures.

        Parameters
        ----------
        pictures
            ``(n, 3, 64, 64)`` in [-1, 1].

        Returns
        -------
        ``(n, 257, width)``: CLS, then the 16x16 patches row by row.
        """
        tokens: torch.Tensor = self.image_encoder(pixel_values=pictures).last_hidden_state
        return tokens

    def encode_figure(self, pictures: torch.Tensor) -> torch.Tensor:
        """Scaled latents ``(n, 8, 16, 16)`` of figures ``(n, 3, 64, 64)`` in [-1, 1]."""
        latents: torch.Tensor = self.vae.encode(pictures).latent_dist.mode() * self.vae.config.scaling_factor
        return latents

    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures ``(n, 3, 64, 64)``, about [-1, 1], from scaled latents ``(n, 8, 16, 16)``."""
        picture: torch.Tensor = self.vae.decode(latents / self.vae.config.scaling_factor).sample
        return picture

    def _check_inputs(
        self,
        num_inference_steps: Any,
        guidance_scale: float,
        output_type: str,
        callback_tensor_inputs: Sequence[str],
        counts: dict[str, int],
    ) -> None:
        if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
            raise ValueError(f"num_inference_steps must be a positive integer; got {num_inference_steps!r}.")
        if guidance_scale < 0:
            raise ValueError(f"guidance_scale must not be negative; got {guidance_scale}.")
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {OUTPUT_TYPES}; got {output_type!r}.")
        unknown = sorted(set(callback_tensor_inputs) - set(self._callback_tensor_inputs))
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs has {unknown}; accepted are {list(self._callback_tensor_inputs)}."
            )
        if len(set(counts.values())) > 1:
            raise ValueError(f"a batch needs as many of each input; got {counts}.")

    def _start_latents(
        self,
        n: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: torch.Tensor | None,
    ) -> torch.Tensor:
        shape = (n, self.vae.config.latent_channels, self.unet.config.sample_size, self.unet.config.sample_size)
        if isinstance(generator, list) and len(generator) != n:
            raise ValueError(f"a list of generators must have one for each of the {n} pictures; got {len(generator)}.")
        device, dtype = self._execution_device, self.unet.dtype
        if latents is None:
            latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        elif tuple(latents.shape) != shape:
            raise ValueError(f"latents must have the shape {shape}; got {tuple(latents.shape)}.")
        start: torch.Tensor = latents.to(device, dtype) * self.scheduler.init_noise_sigma
        return start

    @torch.no_grad()
    def __call__(
        self,
        reference_image: Picture | list[Picture],
        figure_image: Picture | list[Picture],
        mask_image: Picture | list[Picture],
        body_uv: np.ndarray | list[np.ndarray],
        num_inference_steps: int = 20,
        guidance_scale: float = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Paint one figure or a batch of them.

        Parameters
        ----------
        reference_image
            The garment alone: PIL, or uint8 ``(64, 64, 3)``; a list, or ``(n, 64, 64, 3)``, is a batch.
        figure_image
            The figure, the same forms. What lies in the region is hidden from the model.
        mask_image
            The region to paint: PIL or uint8 (white is painted, from 128), or bool ``(64, 64)``; batched alike.
        body_uv
            Garment point ``(u, v)``, each about [-1, 1], that belongs at each pixel of the region; 0 elsewhere.
            Floating point ``(64, 64, 2)``; batched alike.
        num_inference_steps
            Denoiser calls.
        guidance_scale
            Above 1, the denoiser also sees zeros in place of the reference tokens, batch order ``[uncond, cond]``.
        generator
            Of the starting noise; a list, one a picture, makes a batch equal to single calls.
        latents
            Starting noise in its place, ``(n, 8, 16, 16)`` of unit variance.
        output_type
            ``pil``; ``np``, float ``(n, 64, 64, 3)`` in [0, 1]; ``pt``, the same as ``(n, 3, 64, 64)``;
            ``latent``, scaled latents.
        return_dict
            False returns a tuple of the pictures alone.
        callback_on_step_end
            Called as ``callback(pipeline, step, timestep, tensors)``; may return tensors to go on with.
        callback_on_step_end_tensor_inputs
            Which of ``latents`` and ``image_embeddings`` it is given.

        Returns
        -------
        `diffusers.ImagePipelineOutput`, with ``images``.

        Raises
        ------
        TypeError
            If an input is of a wrong kind or dtype.
        ValueError
            If a size, a number or an option is outside what is accepted, or the inputs differ in number.
        """
        size = self.picture_size
        inputs = {
            "reference_image": [
                picture_tensor(p, "reference_image", size) for p in as_list(reference_image, "reference_image", 3)
            ],
            "figure_image": [picture_tensor(p, "figure_image", size) for p in as_list(figure_image, "figure_image", 3)],
            "mask_image": [mask_tensor(p, "mask_image", size) for p in as_list(mask_image, "mask_image", 2)],
            "body_uv": [uv_tensor(p, "body_uv", size) for p in as_list(body_uv, "body_uv", 3)],
        }
        counts = {name: len(items) for name, items in inputs.items()}
        self._check_inputs(num_inference_steps, guidance_scale, output_type, callback_on_step_end_tensor_inputs, counts)
        self._guidance_scale = guidance_scale
        self._interrupt = False

        device, dtype = self._execution_device, self.unet.dtype
        reference, figure, region, uv = (torch.stack(items).to(device, dtype) for items in inputs.values())
        image_embeddings = self.encode_reference(reference.to(self.image_encoder.dtype)).to(dtype)
        hidden = self.encode_figure((figure * (1 - region)).to(self.vae.dtype)).to(dtype)
        condition = denoiser_condition(hidden, region, uv)
        latents = self._start_latents(len(reference), generator, latents)
        if self.do_classifier_free_guidance:
            image_embeddings = torch.cat([torch.zeros_like(image_embeddings), image_embeddings])
            condition = torch.cat([condition, condition])

        self.scheduler.set_timesteps(num_inference_steps, device=device)
        self._num_timesteps = len(self.scheduler.timesteps)
        with self.progress_bar(total=num_inference_steps) as bar:
            for index, timestep in enumerate(self.scheduler.timesteps):
                if self._interrupt:
                    continue
                noisy = torch.cat([latents, latents]) if self.do_classifier_free_guidance else latents
                noisy = self.scheduler.scale_model_input(noisy, timestep)
                prediction = self.unet(
                    torch.cat([noisy, condition], dim=1), timestep, encoder_hidden_states=image_embeddings
                ).sample
                if self.do_classifier_free_guidance:
                    uncond, cond = prediction.chunk(2)
                    prediction = uncond + guidance_scale * (cond - uncond)
                latents = self.scheduler.step(prediction, timestep, latents).prev_sample
                if callback_on_step_end is not None:
                    present = {"latents": latents, "image_embeddings": image_embeddings}
                    given = {name: present[name] for name in callback_on_step_end_tensor_inputs}
                    changed = callback_on_step_end(self, index, timestep, given)
                    latents = changed.get("latents", latents)
                    image_embeddings = changed.get("image_embeddings", image_embeddings)
                bar.update()

        if output_type == "latent":
            images: Any = latents
        else:
            picture = self.decode_latents(latents.to(self.vae.dtype)).float()
            images = self.image_processor.postprocess(picture, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)
