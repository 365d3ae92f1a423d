"""From a waveform to all tasks in their units, as one module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ecgmoe.evaluation.calibration import Calibration
from ecgmoe.export.form import inference_form
from ecgmoe.export.r_peaks import RPeaks
from ecgmoe.inference.predictor import Predictor
from ecgmoe.model.batch import ECGBatch
from ecgmoe.model.ecg_moe import ECGMoE
from ecgmoe.tasks import Task

GATES, R_PEAKS = "gates", "r_peaks"
"""Outputs that are no tasks."""


class WaveformPredictor(nn.Module):
    """What a file holds: int16 microvolt in, predictions in their units, gates and R peaks out.

    Args:
        model: in its inference form.
        tasks: of the model, those that are predicted.
        calibration: its temperatures divide the logits; the rest of it is for who reads the predictions.
        detector: from int16 (B, 12, 5000) to int32 (B, N) R peaks, -1 after the last.
    """

    def __init__(
        self, model: ECGMoE, tasks: tuple[Task, ...], calibration: Calibration, detector: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.model, self.detector = model, RPeaks() if detector is None else detector
        self.only = [task.name for task in tasks]
        self.temperature = {name: float(value) for name, value in calibration.temperature.items()}

    @classmethod
    def of(cls, predictor: Predictor) -> WaveformPredictor:
        """What `predictor` does with records that its quality policy lets through, on the CPU."""
        return cls(inference_form(predictor.model), predictor.tasks, predictor.calibration).eval()

    @property
    def output_names(self) -> list[str]:
        """In the order of `forward`."""
        gates = [GATES] if self.model.config.gates_learn else []
        return [*self.only, *gates, R_PEAKS]

    def forward(self, signal: Tensor) -> dict[str, Tensor]:
        """By output name.

        Args:
            signal: int16 (B, 12, 5000) microvolt, -32768 where missing.

        Returns:
            By task: fp32 (B,) in ms or years, (B,) calibrated probability of class 1, or (B, classes) of each class;
            "gates": fp32 (B, P, E), where the model has experts that it gates; "r_peaks": int32 (B, N), -1 after the last.
        """
        r_peaks = self.detector(signal)
        nobody = torch.zeros(1, dtype=torch.int64, device=signal.device)
        # onnxruntime compares no int16.
        batch = ECGBatch(signal=signal.int(), r_peaks=r_peaks, study_id=nobody, patient_id=nobody)
        output = self.model(batch, self.only)
        logits = {name: value / self.temperature.get(name, 1.0) for name, value in output.predictions.items()}
        outputs = self.model.in_units(logits)
        if output.routing.experts is not None and self.model.config.gates_learn:
            outputs[GATES] = output.routing.experts.float().expand(-1, len(self.only), -1)
        return {**outputs, R_PEAKS: r_peaks}
