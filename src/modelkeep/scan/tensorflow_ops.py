"""What TensorFlow's operations can reach beside tensors. `tensorflow_ops.txt` lists all that TensorFlow 2.21 has."""

from functools import lru_cache
from importlib.resources import files
from typing import Final

_PYTHON = "it calls a Python function of the process"
_READS = "it reads files by a name that is computed in the graph, which each caller or the file itself can choose"
_WRITES = "it writes files"
_NETWORK = "it opens connections"
_MEMORY = "it runs machine code or a program for another compiler that the file brings along"

FORBIDDEN: Final = {
    **dict.fromkeys(("PyFunc", "PyFuncStateless", "EagerPyFunc"), _PYTHON),
    **dict.fromkeys(
        (
            "ReadFile", "MatchingFiles", "WholeFileReader", "WholeFileReaderV2", "TextLineReader", "TextLineReaderV2",
            "TFRecordReader", "TFRecordReaderV2", "FixedLengthRecordReader", "FixedLengthRecordReaderV2", "LMDBReader",
            "IdentityReader", "IdentityReaderV2", "RecordInput", "TextLineDataset", "TFRecordDataset",
            "TFRecordDatasetV2", "FixedLengthRecordDataset", "FixedLengthRecordDatasetV2", "CSVDataset", "CSVDatasetV2",
            "ExperimentalCSVDataset", "LMDBDataset", "ExperimentalLMDBDataset", "MatchingFilesDataset",
            "ExperimentalMatchingFilesDataset", "SqlDataset", "ExperimentalSqlDataset", "LoadDataset",
            "SnapshotDatasetReader", "SnapshotNestedDatasetReader", "SnapshotChunkDataset", "ListSnapshotChunksDataset",
            "ImmutableConst", "LoadAndRemapMatrix", "GenerateVocabRemapping", "Restore", "RestoreSlice",
        ),
        _READS,
    ),
    **dict.fromkeys(
        (
            "WriteFile", "Save", "SaveSlices", "SaveDataset", "SaveDatasetV2", "SnapshotDataset", "SnapshotDatasetV2",
            "DatasetToTFRecord", "ExperimentalDatasetToTFRecord", "CreateSummaryFileWriter", "CreateSummaryDbWriter",
            "DistributedSave", "CacheDataset", "CacheDatasetV2", "DumpTensor", "CalibrationStatisticsSaver",
        ),
        _WRITES,
    ),
    **dict.fromkeys(
        (
            "RpcServer", "RpcServerStart", "RpcServerRegister", "RpcClient", "RpcCall", "RegisterDataset",
            "RegisterDatasetV2", "DataServiceDataset", "DataServiceDatasetV2", "DataServiceDatasetV3",
            "DataServiceDatasetV4", "FileSystemSetConfiguration", "RemoteCall",
        ),
        _NETWORK,
    ),
    **dict.fromkeys(("XlaCustomCall", "XlaCustomCallV2"), _MEMORY),
}  # fmt: skip

NAMED_FILES: Final = {
    "SaveV2": 0, "RestoreV2": 0, "MergeV2Checkpoints": 0, "DTensorRestoreV2": 0,
    "InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1,
}  # fmt: skip
"""Operations of every SavedModel that open a file, and the input that names it: harmless while the loader gives it."""
NAMED_IN_ATTRIBUTES: Final = {
    "PrintV2",
    "DebugIdentity",
    "DebugIdentityV2",
    "DebugIdentityV3",
    "DecodeProtoV2",
    "EncodeProto",
}
"""Operations that open what an attribute names: an output stream, an address, a file of descriptors."""


@lru_cache(maxsize=1)
def known() -> frozenset[str]:
    """The names of TensorFlow's own operations."""
    return frozenset((files("modelkeep.scan") / "tensorflow_ops.txt").read_text("utf-8").split())
