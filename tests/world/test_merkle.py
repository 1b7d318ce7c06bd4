"""Merkle trees: the published roots and proofs, every small tree, and that nothing wrong passes."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sust_dagster.world.merkle import (
    EMPTY_ROOT,
    Tree,
    leaf_hash,
    node_hash,
    root_hash,
    verify_consistency,
    verify_inclusion,
)

# The reference leaves and roots of Certificate Transparency's test suite.
LEAVES = [
    bytes.fromhex(h)
    for h in (
        "", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f",
    )
]  # fmt: skip
ROOTS = [
    bytes.fromhex(h)
    for h in (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    )
]
MOST = 70
HASHES = [leaf_hash(str(i).encode()) for i in range(MOST)]
TREE = Tree(HASHES)


def plain_root(hashes: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word by word."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    k = 1
    while 2 * k < len(hashes):
        k *= 2
    return sha256(b"\x01" + plain_root(hashes[:k]) + plain_root(hashes[k:])).digest()


def flipped(data: bytes, bit: int) -> bytes:
    made = bytearray(data)
    made[bit // 8] ^= 1 << bit % 8
    return bytes(made)


def test_the_reference_roots() -> None:
    assert root_hash([]) == EMPTY_ROOT == sha256(b"").digest()
    tree = Tree(map(leaf_hash, LEAVES))
    for size, root in enumerate(ROOTS, 1):
        assert root_hash(map(leaf_hash, LEAVES[:size])) == tree.root(size) == root


def test_the_reference_proofs() -> None:
    tree = Tree(map(leaf_hash, LEAVES))
    proof = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ]
    assert [h.hex() for h in tree.consistency_proof(6, 8)] == proof
    proof = [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ]
    assert [h.hex() for h in tree.consistency_proof(2, 5)] == proof
    assert tree.inclusion_proof(2, 3) == [ROOTS[1]]


def test_a_leaf_is_no_node() -> None:
    """Without the two prefixes a node's children could be passed off as a leaf."""
    pair = leaf_hash(b"a") + leaf_hash(b"b")
    assert leaf_hash(pair) != node_hash(pair[:32], pair[32:])


def test_every_small_tree_and_every_leaf_of_it() -> None:
    for size in range(MOST + 1):
        root = TREE.root(size)
        assert root == Tree(HASHES[:size]).root() == plain_root(HASHES[:size])
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            assert proof == Tree(HASHES[:size]).inclusion_proof(index) if size in (7, 8, 33) else True
            assert verify_inclusion(HASHES[index], index, size, proof, root)
            assert not verify_inclusion(HASHES[index], index + 1, size, proof, root)
            assert not verify_inclusion(HASHES[index - 1], index, size, proof, root) or size == 1
            assert not verify_inclusion(HASHES[index], index, size, [*proof, root], root)
            if proof:
                assert not verify_inclusion(HASHES[index], index, size, proof[:-1], root)


def test_every_small_tree_and_every_beginning_of_it() -> None:
    for second in range(MOST + 1):
        for first in range(second + 1):
            proof, old, new = TREE.consistency_proof(first, second), TREE.root(first), TREE.root(second)
            assert verify_consistency(first, second, proof, old, new)
            assert not verify_consistency(first, second, [*proof, old], old, new)
            if proof:
                assert not verify_consistency(first, second, proof[:-1], old, new)
                assert not verify_consistency(first, second, proof, new, old)
            if 0 < first < second:
                assert not verify_consistency(first, second, proof, new, new)
                assert not verify_consistency(first - 1, second, proof, old, new)


def test_a_wrong_size_is_refused() -> None:
    for size in range(2, 34):
        for index in range(size):
            proof, root = TREE.inclusion_proof(index, size), TREE.root(size)
            for other in range(1, 40):
                # A proof may have the shape of another tree's; its root is still only that of its own size.
                passes = verify_inclusion(HASHES[index], index, other, proof, TREE.root(other))
                assert passes == (other == size)
            assert not verify_inclusion(HASHES[index], -1, size, proof, root)
    with pytest.raises(ValueError, match="has 70 leaves, not 71"):
        TREE.root(71)
    with pytest.raises(ValueError, match="no leaf 5 in a tree of 5"):
        TREE.inclusion_proof(5, 5)
    with pytest.raises(ValueError, match="no tree of 6 leaves is the beginning of one of 5"):
        TREE.consistency_proof(6, 5)
    with pytest.raises(ValueError, match="a leaf hash has 32 bytes"):
        Tree([b"a"])


@given(st.data())
def test_any_flipped_bit_fails(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, MOST))
    index = data.draw(st.integers(0, size - 1))
    bit = data.draw(st.integers(0, 255))
    proof, root = TREE.inclusion_proof(index, size), TREE.root(size)
    which = data.draw(st.integers(0, len(proof) - 1))
    wrong = [*proof[:which], flipped(proof[which], bit), *proof[which + 1 :]]
    assert verify_inclusion(HASHES[index], index, size, proof, root)
    assert not verify_inclusion(HASHES[index], index, size, wrong, root)
    assert not verify_inclusion(flipped(HASHES[index], bit), index, size, proof, root)
    assert not verify_inclusion(HASHES[index], index, size, proof, flipped(root, bit))

    first = data.draw(st.integers(1, size - 1))
    steps, old = TREE.consistency_proof(first, size), TREE.root(first)
    which = data.draw(st.integers(0, len(steps) - 1))
    wrong = [*steps[:which], flipped(steps[which], bit), *steps[which + 1 :]]
    assert verify_consistency(first, size, steps, old, root)
    assert not verify_consistency(first, size, wrong, old, root)
    assert not verify_consistency(first, size, steps, flipped(old, bit), root)
    assert not verify_consistency(first, size, steps, old, flipped(root, bit))


@given(st.lists(st.binary(max_size=80), max_size=300), st.data())
def test_any_leaves(leaves: list[bytes], data: st.DataObject) -> None:
    hashes = [leaf_hash(leaf) for leaf in leaves]
    tree = Tree(hashes)
    assert tree.root() == plain_root(hashes)
    first = data.draw(st.integers(0, len(hashes)))
    assert verify_consistency(first, len(hashes), tree.consistency_proof(first), tree.root(first), tree.root())
    if hashes:
        index = data.draw(st.integers(0, len(hashes) - 1))
        assert verify_inclusion(tree.leaf(index), index, len(hashes), tree.inclusion_proof(index), tree.root())


def test_a_proof_of_wrong_lengths_is_refused() -> None:
    """Hashes of other lengths could be cut anew into the same bytes."""
    proof, root = TREE.inclusion_proof(3, 8), TREE.root(8)
    joined = [proof[0] + proof[1], *proof[2:]]
    assert not verify_inclusion(HASHES[3], 3, 8, joined, root)
    assert not verify_consistency(3, 8, [h[:31] for h in TREE.consistency_proof(3, 8)], TREE.root(3), root)


def test_a_rewritten_leaf_breaks_consistency() -> None:
    """Negative control of what the proofs are for: a log that was changed does not extend what was signed."""
    for changed in range(20):
        other = Tree([*HASHES[:changed], leaf_hash(b"forged"), *HASHES[changed + 1 : 40]])
        assert not verify_consistency(20, 40, other.consistency_proof(20), TREE.root(20), other.root())
