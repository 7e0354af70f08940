// Boxes that scroll can be reached with the keyboard; Safari needs this.
addEventListener('DOMContentLoaded', () => {
    for (const each of document.querySelectorAll('pre, .table-wrapper, .wide-picture')) {
        if (each.scrollWidth > each.clientWidth) each.tabIndex = 0;
    }
});
