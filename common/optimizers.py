"""The Muon optimizer, for 2-D convolutions."""

import re

import keras
from keras import ops


@keras.saving.register_keras_serializable("cookbook")
class Muon(keras.optimizers.Muon):
    """Keras's Muon, extended to the kernels of 2-D convolutions, which Keras leaves to AdamW.

    As in Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/, a kernel (height, width, inputs, outputs) is
    treated as the matrix (height * width * inputs, outputs), and its updates are nearly orthogonal. Their scale and
    the decoupled weight decay are Keras's, from Liu et al., 2025, https://arxiv.org/abs/2502.16982. Output layers train
    better with AdamW: `exclude_layers` takes regular expressions for their variables' paths. By default, AdamW's
    learning rate is 0.3 times Muon's, and AdamW applies no weight decay.
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
        if len(variable.shape) == 4:
            return any(re.search(keyword, variable.path) for keyword in self.exclude_layers)
        return super()._should_use_adamw(variable)

    def zeropower_via_newtonschulz5(self, x, steps):
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().zeropower_via_newtonschulz5(matrix, steps), x.shape)

    def lr_adjust(self, x):
        matrix = ops.reshape(x, (-1, x.shape[-1]))
        return ops.reshape(super().lr_adjust(matrix), x.shape)
