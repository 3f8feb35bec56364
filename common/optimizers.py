"""The Muon optimizer, for convolutions and attention too; a fair choice between it and AdamW."""

import math
import re

import keras
from keras import ops


@keras.saving.register_keras_serializable("cookbook")
class Muon(keras.optimizers.Muon):
    """Keras's Muon, extended to kernels of three and four axes, which Keras leaves to AdamW.

    As in Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/, the kernel of a 2-D convolution (height,
    width, inputs, outputs) is treated as the matrix (height * width * inputs, outputs), and its updates are nearly
    orthogonal; so are those of `MultiHeadAttention`, (inputs, heads, size) and (heads, size, outputs), and of 1-D
    convolutions, as the more nearly square of the two possible matrices. Their scale and the decoupled weight decay are
    Keras's, from Liu et al., 2025, https://arxiv.org/abs/2502.16982. Output layers train better with AdamW:
    `exclude_layers` takes regular expressions for their variables' paths. By default, AdamW's learning rate is 0.3
    times Muon's, and AdamW applies no weight decay.
    """

    def __init__(self, learning_rate=0.02, adam_weight_decay=None, adam_lr_ratio=0.3, momentum=0.9, **kwargs):
        super().__init__(
            learning_rate,
            adam_weight_decay=adam_weight_decay,
            adam_lr_ratio=adam_lr_ratio,
            momentum=momentum,
            **kwargs,
        )

    def _should_use_adamw(self, variable):
        if variable.path.endswith("bias"):  # The biases of attention have two axes, (heads, size).
            return True
        if len(variable.shape) in (3, 4):
            return any(re.search(keyword, variable.path) for keyword in self.exclude_layers)
        return super()._should_use_adamw(variable)

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = ops.reshape(x, matrix_shape(x.shape))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x):
        matrix = ops.reshape(x, matrix_shape(x.shape))
        return ops.reshape(super().lr_adjust(matrix), x.shape)


def matrix_shape(shape):
    """The shape of the matrix that a kernel of this shape is treated as."""
    ways = [(math.prod(shape[:axis]), math.prod(shape[axis:])) for axis in range(1, len(shape))]
    return min(ways, key=sum) if len(shape) == 3 else ways[-1]


def muon_or_adamw(name, model, learning_rate, weight_decay, beta_2=0.999, exclude_layers=()):
    """Muon for the kernels of a model and AdamW for its other weights, or AdamW for all of them.

    In both cases, AdamW's learning rate is a fifth of Muon's, which is `learning_rate`; weight decay is equally fast
    and applies only to what Muon may update; and gradients are clipped to a global norm of 1.

    name: "muon" or "adamw". beta_2: AdamW's. exclude_layers: see `Muon`.
    """
    options = {"adam_beta_2": beta_2, "exclude_layers": list(exclude_layers), "weight_decay": weight_decay}
    muon = Muon(learning_rate, adam_lr_ratio=0.2, momentum=0.95, global_clipnorm=1.0, **options)
    if name == "muon":
        return muon
    adamw = keras.optimizers.AdamW(learning_rate / 5, 5 * weight_decay, beta_2=beta_2, global_clipnorm=1.0)
    adamw.exclude_from_weight_decay([each for each in model.trainable_variables if muon._should_use_adamw(each)])
    return adamw
