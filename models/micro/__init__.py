"""The bundled micro models: a ViT and a Swin transformer for the 32x32 images of CIFAR-10.

Large enough for real photographs, small enough to be trained and quantized on any machine.
"""
