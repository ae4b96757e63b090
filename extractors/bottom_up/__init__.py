"""The Visual-Genome bottom-up model (Anderson et al. 2018), as Caffe computes it, in torch and torchvision."""
