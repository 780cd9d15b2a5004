"""From the artifact that passed its gates to all of the traffic, or back: pure parts, and a thin shell around them.

`assign` (who gets which arm), `evidence` (what the events say, however often it is looked at), `policy` (promote, hold or roll
back) and `log` (state is a fold over events) are pure; `simulate` plays traffic through the very same parts.
"""
