"""Modules that a model uses and does not register: listed, and converted where they are named."""

import re

import pytest
import torch
from torch import nn

from mmint.conversion import convert, format_report, restore
from mmint.layers import IntConv2d, IntLinear


class Student(nn.Module):
    """With a teacher that is no child of it, as in mmdet's `KnowledgeDistillation...Detector`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(nn.Linear(3, 2))
        object.__setattr__(self, 'teacher', nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU()).eval())
        self.head.critics = [nn.Linear(2, 1), nn.ReLU()]
        self.head.by_name = dict(conv=self.conv, other=nn.Linear(2, 2))

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        return self.conv(x) - target


OTHERS = ['teacher', 'head.critics.0', 'head.by_name.other']


def test_they_are_listed_and_left_alone():
    model = Student()
    report = convert(model)
    assert [(e.name, e.parameters) for e in report if e.after == 'not registered'] == list(
        zip(OTHERS, (12, 3, 6), strict=True)
    )
    assert type(model.conv) is IntConv2d and type(model.teacher[0]) is nn.Conv2d
    assert re.search(r'Sequential +not registered +float +1 +12 +teacher', format_report(report))


def test_their_very_names_convert_them():
    model = Student()
    report = convert(model, include=['*', 'teacher'], layer_bits={'teacher.0': 6})
    assert [entry.name for entry in report if entry.after == 'not registered'] == OTHERS[1:]
    assert type(model.teacher[0]) is IntConv2d and model.teacher[0].bits == 6
    assert model.teacher[0].site.name == 'teacher.0'
    assert model(torch.randn(1, 3, 4, 4)).isfinite().all()
    restore(model)
    assert type(model.teacher[0]) is nn.Conv2d and 'forward' not in vars(model.teacher)


def test_they_do_not_change_the_random_bits_of_what_is_registered():
    alone, together = Student(), Student()
    convert(alone)
    convert(together, include=['*', *OTHERS])
    assert type(together.head.critics[0]) is IntLinear
    assert together.conv.site == alone.conv.site and together.head[0].site == alone.head[0].site


@pytest.mark.parametrize('settings', [dict(exclude=['teacher']), dict(exclude=['head.critics'])])
def test_to_exclude_them_is_no_mistake(settings):
    assert 'teacher' in [entry.name for entry in convert(Student(), **settings)]
