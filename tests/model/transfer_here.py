"""A transfer from torch's names on the backend of this process; prints whether outputs are those of torch."""

import json

import keras
import numpy as np
import torch

from modelkeep import transfer
from modelkeep.errors import StateMismatch

layers = keras.layers


def main() -> None:
    torch.manual_seed(0)
    lstm, head = torch.nn.LSTM(6, 4, batch_first=True), torch.nn.Linear(4, 3)
    source = {f"body.{name}": tensor.detach().numpy() for name, tensor in lstm.state_dict().items()}
    source |= {f"head.{name}": tensor.detach().numpy() for name, tensor in head.state_dict().items()}
    model = keras.Sequential([keras.Input((5, 6)), layers.LSTM(4, name="body"), layers.Dense(3, name="head")])
    model.compile("adam", "mse")
    model.fit(np.ones((4, 5, 6)), np.ones((4, 3)), verbose=0)  # jax holds its state aside while it trains
    before = [np.array(keras.ops.convert_to_numpy(weight)) for weight in model.weights]
    try:
        transfer(model, source | {"head.bias": np.full(3, np.nan, "f4")})
    except StateMismatch:
        after = [keras.ops.convert_to_numpy(weight) for weight in model.weights]
        assert all(np.array_equal(one, other) for one, other in zip(before, after, strict=True))
    else:
        raise AssertionError("NaN was loaded")
    report = transfer(model, source, freeze="body")
    x = np.random.default_rng(0).random((2, 5, 6), "f4")
    expected = head(lstm(torch.from_numpy(x))[0][:, -1]).detach().numpy()
    close = bool(np.allclose(model.predict(x, verbose=0), expected, rtol=1e-5, atol=1e-5))
    model.compile("adam", "mse")
    model.fit(np.ones((4, 5, 6)), np.ones((4, 3)), verbose=0)
    print(json.dumps({"backend": keras.backend.backend(), "close": close, "frozen": list(report.frozen)}))


if __name__ == "__main__":
    main()
