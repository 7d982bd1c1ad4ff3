"""Tiers outside of this box, each behind `ports.TierClient`: one client, and a dialect for each kind of far side.

Invariant: nothing here can reach a raw payload. A question is redacted before it gets here, and no module of this
package imports what holds messages (a contract of import-linter).
"""
