"""Pretrained eyes: the human parser and CLIP. Pictures in, numpy out; no files of ours."""
