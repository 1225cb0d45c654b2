"""Rows of videos: grids of latent frames, rows and columns."""

from matrix import video_parts
from matrix.pieces import photo
from matrix.rows import Row

PROMPT = "a red cat"
BOTH = {"kinds": ("text", "self")}
WAN = {"prompt": PROMPT, "num_frames": 5, "height": 48, "width": 80}
GRID = "2x3x5"
UMT5 = "3 word, 1 eos, 508 pad"
WORDS = {"red": (1,), "cat": (2,)}
CLIP = {"prompt": PROMPT, "num_frames": 9, "height": 48, "width": 80, "max_sequence_length": 16}


def embedded(pipe):
    """Wan's image to video cleans prompts with a package that is not a part of it: embeddings need none."""
    texts = pipe.tokenizer([PROMPT, "dog"], padding="max_length", max_length=512, return_tensors="pt")
    made = pipe.text_encoder(texts.input_ids, texts.attention_mask)[0].detach()
    return {
        **WAN,
        "prompt": None,
        "prompt_embeds": made[:1],
        "negative_prompt_embeds": made[1:],
        "image": photo(48, 80),
    }


ROWS = [
    Row(
        "Wan",
        "WanPipeline",
        video_parts.wan,
        {**WAN, "negative_prompt": "blue dog"},
        BOTH,
        branches=("cond", "uncond"),
        leaves={f"text/{GRID}": UMT5, f"self/{GRID}": "30 self"},
        words=WORDS,
        denoiser="transformer",
        passes=True,
        notes="guidance branches in passes; 512 keys of text, without a mask",
    ),
    Row(
        "Wan 2.2",
        "WanPipeline",
        video_parts.wan_experts,
        {**WAN, "guidance_scale": 1.0},
        {**BOTH, "encoding": "factors"},
        branches=("cond",),
        leaves={f"text/{GRID}": UMT5, f"self/{GRID}": "30 self"},
        words=WORDS,
        denoiser="transformer",
        relay="transformer_2",
        notes="two transformers: which one computed a call, its timestep says",
    ),
    Row(
        "Wan, image to video",
        "WanImageToVideoPipeline",
        video_parts.wan_image_to_video,
        embedded,
        {"kinds": ("text", "image")},
        branches=("cond", "uncond"),
        leaves={f"text/{GRID}": "512 word", f"image/{GRID}": "1 cls, 16 reference"},
        denoiser="transformer",
        passes=True,
        notes="a softmax over the first frame and one over the text; tokens of embeddings have no names",
    ),
    Row(
        "CogVideoX",
        "CogVideoXPipeline",
        video_parts.cogvideox,
        {**CLIP, "negative_prompt": "dog"},
        leaves={"joint/3x3x5": "16 text, 45 generated"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(-45, None),
        notes="",
    ),
    Row(
        "CogVideoX 1.5",
        "CogVideoXPipeline",
        video_parts.cogvideox_15,
        {**CLIP, "guidance_scale": 1.0},
        {"keys": "prompt"},
        branches=("cond",),
        leaves={"joint/2x3x5": "16 text"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(-30, None),
        keys=lambda _name, _run: range(16),
        notes="patches of two latent frames: the pipeline fills them up, and drops the frames that it added",
    ),
    Row(
        "LTX-Video",
        "LTXPipeline",
        video_parts.ltx,
        {**CLIP, "prompt": [PROMPT, "a dog"], "negative_prompt": "dog", "height": 96, "width": 160},
        BOTH,
        leaves={f"text/{GRID}": "3 word, 1 eos, 12 pad", f"self/{GRID}": "30 self"},
        words=WORDS,
        denoiser="transformer",
        notes="the padding of T5 is masked",
    ),
    Row(
        "Wan 2.2, the first frame given",
        "WanImageToVideoPipeline",
        video_parts.wan_first_frame,
        lambda pipe: {**embedded(pipe), "guidance_scale": 1.0},
        BOTH,
        branches=("cond",),
        leaves={f"text/{GRID}": "512 word", f"self/{GRID}": "30 self"},
        denoiser="transformer",
        notes="its tokens have timestep 0 in every call",
    ),
    Row(
        "CogVideoX, image to video",
        "CogVideoXImageToVideoPipeline",
        video_parts.cogvideox_image_to_video,
        {**CLIP, "image": photo(48, 80)},
        leaves={"joint/3x3x5": "16 text, 45 generated"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(-45, None),
        notes="the picture comes in as channels",
    ),
    Row(
        "CogVideoX, video to video",
        "CogVideoXVideoToVideoPipeline",
        video_parts.cogvideox_video_to_video,
        {
            **{name: value for name, value in CLIP.items() if name != "num_frames"},
            "video": [photo(48, 80, frame) for frame in range(13)],
            "strength": 0.5,
            "num_inference_steps": 4,
        },
        leaves={"joint/4x3x5": "16 text, 60 generated"},
        words=WORDS,
        denoiser="transformer",
        queries=slice(-60, None),
        notes="as long as the video given",
    ),
    Row(
        "LTX-Video, image to video",
        "LTXImageToVideoPipeline",
        video_parts.ltx_image_to_video,
        {**CLIP, "image": photo(96, 160), "height": 96, "width": 160},
        BOTH,
        leaves={f"text/{GRID}": "3 word, 1 eos, 12 pad", f"self/{GRID}": "30 self"},
        words=WORDS,
        denoiser="transformer",
        notes="tokens of the first frame have timestep 0 in every call",
    ),
    Row(
        "Wan, video to video",
        "WanVideoToVideoPipeline",
        video_parts.wan_video_to_video,
        lambda pipe: {
            **{name: value for name, value in embedded(pipe).items() if name not in ("image", "num_frames")},
            "video": [photo(48, 80, frame) for frame in range(5)],
            "guidance_scale": 1.0,
            "strength": 0.5,
            "num_inference_steps": 4,
        },
        branches=("cond",),
        leaves={f"text/{GRID}": "512 word"},
        denoiser="transformer",
    ),
]
