"""Whether the tensors of one AWQ linear can be trusted, and the words of GPTQ that they become."""

from __future__ import annotations

from torch import Tensor

from qwartet.quant_format.awq_packing import LANES, gptq_qweight, gptq_qzeros
from qwartet.quant_format.checks import LinearChecks
from qwartet.quant_format.packing import ZeroFormat, detect_zero_format


class AwqChecks(LinearChecks):
    """The checks of a linear of AWQ, version gemm."""

    def check_shapes(self) -> int:
        in_features, num_words = self.tensors["qweight"].shape
        num_groups, num_zero_words = self.tensors["qzeros"].shape
        out_features, group_size = num_words * LANES, self.config.group_size_of(in_features)
        hint = "the config is not of these tensors, or they are of another version than gemm"
        if num_zero_words != num_words:
            reason = f"has {num_zero_words} words in a row and qweight {num_words}; both pack the outputs"
            raise self._error("qzeros", reason, hint)
        if list(self.tensors["scales"].shape) != [num_groups, out_features]:
            found = list(self.tensors["scales"].shape)
            raise self._error(
                "scales", f"shape is {found}; qweight and qzeros imply {[num_groups, out_features]}", hint
            )
        if in_features % LANES:
            raise self._error("qweight", f"has {in_features} inputs; AWQ is supported for multiples of {LANES}")
        if in_features % group_size:
            reason = f"the config says group_size {group_size}, which does not divide the {in_features} inputs"
            raise self._error("scales", reason, hint)
        self._check_sizes(in_features, out_features)
        self._check_num_groups(in_features)
        return group_size

    def gptq_words(self) -> tuple[Tensor, Tensor]:
        """qweight and qzeros, packed anew."""
        return gptq_qweight(self.tensors["qweight"]), gptq_qzeros(self.tensors["qzeros"])

    def choose_zero_format(self) -> ZeroFormat:
        """Version 2, which stores zeros as they are; without zero_point each of them must be 8."""
        if self.config.sym and detect_zero_format(self.tensors["qzeros"], self.config.bits) != "v2":
            hint = "set zero_point to true in config.json"
            raise self._error("qzeros", "zero_point is false, but the zeros are not all 8", hint)
        return "v2"
