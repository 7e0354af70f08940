"""Listings of a container."""

import calendar
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

from freezer.storage import exceptions as e
from freezer.storage.objects import ListedObject
from freezer.storage.swift.container_requests import ContainerRequests

ListedWithMd5 = tuple[ListedObject, str]
_Page = list[ListedWithMd5]


class Listings:
    def __init__(self, http: ContainerRequests) -> None:
        self._http = http

    def list(self, prefix: str) -> Iterator[ListedObject]:
        for item, _md5 in self.list_with_md5(self._http.name, prefix):
            yield item

    def list_with_md5(self, container: str, prefix: str) -> Iterator[ListedWithMd5]:
        """Objects with their MD5. Complete, or it raises.

        A page may be short before the end: only an empty one is the end.
        """
        marker = ''
        while True:
            query = {'format': 'json', 'prefix': prefix}
            if marker:
                query['marker'] = marker
            page = self._page(container, query)
            if not page:
                return
            yield from page
            last = page[-1][0].key
            if last.encode() <= marker.encode():
                raise e.MalformedAnswer(
                    f'list {self._http.where()}: the page after {marker!r} ends with '
                    f'{last!r}: the listing has no end'
                )
            marker = last

    def _page(self, container: str, query: Mapping[str, str]) -> _Page:
        what = f'list swift://{container}/{query["prefix"]}'

        def call() -> _Page:
            try:
                answer = self._http.requests.send(what, 'GET', container, query)
            except e.NotFound as error:
                raise self._http.no_container(error) from error
            try:
                items = json.loads(answer.body)
                return [_listed(item) for item in items if 'subdir' not in item]
            except (ValueError, KeyError, TypeError) as error:
                raise e.IncompleteAnswer(
                    f'{what} at {self._http.endpoint}: not a whole listing: {error}'
                ) from error

        return self._http.requests.run(call)


def _listed(item: Mapping[str, Any]) -> ListedWithMd5:
    """:raises ValueError, KeyError: it is none of a listing"""
    moment = time.strptime(item['last_modified'][:19], '%Y-%m-%dT%H:%M:%S')
    name, size = str(item['name']), int(item['bytes'])
    return ListedObject(name, size, float(calendar.timegm(moment))), str(item['hash'])
