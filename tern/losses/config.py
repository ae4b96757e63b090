"""Which loss, and its numbers. What fits what stands in docs/LOSSES.md."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class LossConfig(BaseModel):
    """Which loss, and its numbers. Fields that a loss has no use for are ignored by it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "infonce"
    """`infonce`, `hinge`, or a class of pytorch_metric_learning.losses such as `SupConLoss`"""
    margin: float = Field(0.2, ge=0)
    """hinge: cosine by which a positive must beat a negative"""
    negatives: Literal["hardest", "semihard", "all"] = "hardest"
    """hinge: the worst negative of each pair, the worst of those that score below the positive, or the sum over all"""
    reduction: Literal["mean", "sum", "nonzero"] = "mean"
    """over positive pairs (hinge), anchors (infonce), or what the library's loss yields; `nonzero`
    is the mean over those above zero"""
    temperature: float = Field(0.07, ge=0.01, le=1)
    """infonce: what cosines are divided by, at the start"""
    learn_temperature: bool = True
    """infonce: whether the temperature is a parameter, held within 0.01 to 1"""
    miner: str = ""
    """library losses: a class of pytorch_metric_learning.miners, or empty for none"""
    distance: Literal["", "cosine", "lp"] = ""
    """library losses: the distance, or empty for the class's own"""
    params: dict[str, float | int | str | bool] = {}
    """library losses: further arguments of the class"""
    miner_params: dict[str, float | int | str | bool] = {}
    """library losses: arguments of the miner"""
    memory_size: int = Field(0, ge=0, le=1 << 20)
    """any loss: rows a modality that are kept from earlier batches and compared with as well; 0 for none"""
    memory_start_batch: int = Field(0, ge=0)
    """any loss with a memory: batches before it is used; rows of a model that still moves fast mislead"""
    vicreg_weight: float = Field(0, ge=0)
    """any loss: weight of an added VICReg term, whose value is about 5 to 70; 0 for none"""
