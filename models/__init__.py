"""Flax Linen models that the training scripts share."""

from models.cnn import CNN as CNN
from models.mlp import MLP as MLP
from models.ncf import INITIALIZATIONS as INITIALIZATIONS
from models.ncf import NCF as NCF
from models.ncf import TOWERS as TOWERS
from models.resnet import NORMALIZATIONS as NORMALIZATIONS
from models.resnet import STEMS as STEMS
from models.resnet import PreResNet as PreResNet
from models.resnet import PreResNet32 as PreResNet32
from models.resnet import ResNet as ResNet
from models.resnet import ResNet18 as ResNet18
from models.resnet import ResNet50 as ResNet50
from models.transformer import Transformer as Transformer
from models.transformer import nanogpt as nanogpt
from models.vgg import VGG as VGG
from models.vgg import VGG19 as VGG19
