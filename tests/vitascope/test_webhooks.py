"""Messages are signed and verified as the Standard Webhooks specification says."""

from __future__ import annotations

import pytest

from vitascope.errors import InvalidInput
from vitascope.webhooks import SignatureInvalid, sign, verify


def test_the_example_of_the_specification() -> None:
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    secret, body = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", b'{"test": 2432232314}'
    assert sign(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body) == signature
    headers = {
        "Webhook-Id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "Webhook-Timestamp": "1614265330",
        "Webhook-Signature": f"v1a,other v1,bm90IHRoaXM= {signature}",
    }
    for now in (1614265330 - 299, 1614265330 + 299):
        assert verify(secret, headers, body, now=now) == {"test": 2432232314}
    for now in (1614265330 - 301, 1614265330 + 301):
        with pytest.raises(SignatureInvalid, match="301 s from now"):
            verify(secret, headers, body, now=now)
    for changed in (
        {"Webhook-Id": "msg_other"},
        {"Webhook-Timestamp": "1614265331"},
        {"Webhook-Timestamp": "now"},
        {"Webhook-Signature": "v1,bm90IHRoaXM="},
        {"Webhook-Signature": signature.replace("v1,", "v2,")},
        {"Webhook-Signature": "v1,\u00e9"},
        {"Webhook-Signature": ""},
    ):
        with pytest.raises(SignatureInvalid):
            verify(secret, headers | changed, body, now=1614265330)


def test_a_wrong_secret_is_told_without_repeating_it() -> None:
    with pytest.raises(InvalidInput) as raised:
        sign("whsec_short", "msg_1", 1, b"")
    assert "short" not in str(raised.value)
