"""The figures of the published study, and measured numbers beside them."""
