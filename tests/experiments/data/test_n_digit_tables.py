import numpy as np
import pytest

from experiments.data import digits, n_digit_tables


def spell(table, labels):
    """The numbers that the digits of a table's images spell."""
    chosen = labels[table.digit_ids].astype(int)
    return (chosen * 10 ** np.arange(chosen.shape[-1])[::-1]).sum(-1)


@pytest.mark.parametrize("choice", [c for c in n_digit_tables.SIZES if c[0] == "sklearn"])
def test_tables_spell_their_numbers(choice):
    _, num_digits, protocol = choice
    pools, sizes = digits.of_sklearn(), n_digit_tables.SIZES[choice]
    tables = n_digit_tables.draw(pools, num_digits, protocol, sizes)
    assert list(tables) == list(sizes)
    for split, table in tables.items():
        assert table.digit_ids.shape == (*sizes[split], num_digits)
        spelled = spell(table, pools[n_digit_tables.pool(split)].labels)
        assert (spelled == table.numbers[:, None]).all()
        assert len(set(table.numbers.tolist())) == len(table.numbers)
        for of_class in table.digit_ids:  # no digit twice at one place
            for place in of_class.T:
                assert len(set(place.tolist())) == len(place)
    if protocol == "number":
        train, seen, unseen = (set(table.numbers.tolist()) for table in tables.values())
        assert seen <= train and not unseen & train
    else:
        assert all(len(table.numbers) == 10**num_digits for table in tables.values())


@pytest.mark.parametrize("num_digits", [2, 3])
@pytest.mark.parametrize("protocol", ["number", "instance"])
def test_published_tables_are_what_is_drawn(data, num_digits, protocol):
    pools = digits.of_mnist(digits.find_mnist(data / "mnist"))
    sizes = n_digit_tables.SIZES["mnist", num_digits, protocol]
    tables = n_digit_tables.draw(pools, num_digits, protocol, sizes)
    compared = 0
    for split, table in tables.items():
        name = n_digit_tables.file_name(num_digits, protocol, split)
        path = data / "n_digit_mnist" / name
        if path.exists():
            n_digit_tables.check(path, n_digit_tables.read(path), table)
            compared += 1
    assert compared >= 2


def test_bad_tables(tmp_path):
    path = tmp_path / "table.npz"
    for content in (b"", b"no archive"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"table.npz must be a table of n-digit-mnist"):
            n_digit_tables.read(path)
    np.savez(path, chosen_numbers=np.arange(3))
    with pytest.raises(ValueError, match=r"must be a table of n-digit-mnist: .*image_ids"):
        n_digit_tables.read(path)
    np.savez(path, chosen_numbers=np.arange(3), image_ids=np.zeros((3, 4, 2), int))
    table = n_digit_tables.read(path)
    other = table._replace(digit_ids=table.digit_ids + 1)
    with pytest.raises(ValueError, match=r"must hold the published table, its digit_ids differ"):
        n_digit_tables.check(path, table, other)
    n_digit_tables.check(path, table, table)
