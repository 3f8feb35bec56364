"""Muon for convolutional networks."""

import re

import keras
from keras import ops


@keras.saving.register_keras_serializable("cookbook")
class Muon(keras.optimizers.Muon):
    """Keras's Muon, which also updates the kernels of convolutions with orthogonal steps instead of AdamW's.

    As in Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/, a kernel (height, width, inputs, outputs) is
    treated as the matrix (height * width * inputs, outputs). Name the output layer in `exclude_layers`.
    """

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
