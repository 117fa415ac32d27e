"""Label an image with an ONNX file of `sign-zs3 export`; needs only onnxruntime, numpy and pillow.

python onnx_predict.py model.onnx photo.jpg labels.png
"""

import argparse
import json

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

parser = argparse.ArgumentParser(description="Label an image with an ONNX file of sign-zs3 export.")
parser.add_argument("model", help="the .onnx file")
parser.add_argument("photo", help="the image to label")
parser.add_argument("output", help="the PNG to write, with the data set's own ids")
given = parser.parse_args()

session = onnxruntime.InferenceSession(given.model, providers=["CPUExecutionProvider"])
metadata = json.loads(session.get_modelmeta().custom_metadata_map["sign_zs3"])

image = ImageOps.exif_transpose(Image.open(given.photo)).convert("RGB")
size, side = image.size, 64 * metadata["stride"]
image.thumbnail((side, side))  # attention compares each cell with all others: more than 64 a side take much memory
labels, confidence = session.run(None, {"images": np.asarray(image).transpose(2, 0, 1)[None]})  # both (1, H, W)

for index, name in enumerate(metadata["classes"]):
    if (found := labels[0] == index).any():
        unseen = " (unseen in training)" if name in metadata["unseen"] else ""
        print(f"{name}{unseen}: {found.mean():.1%} of the pixels, confidence {confidence[0][found].mean():.2f}")
ids = np.array(metadata["ids"], np.uint8)[labels[0]]  # the data set's own
Image.fromarray(ids).resize(size, Image.Resampling.NEAREST).save(given.output)
