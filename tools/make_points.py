"""Writes the points of texts and of ImageNet's labels into the package: few questions need the sentences' network."""
import microvid_nb.features.words as words
from microvid_nb.features.ears import packaged_ears
from microvid_nb.tasks import weights_folder
from microvid_nb.training import write_tensors
from microvid_nb.venue.zero_shot import photo_texts, place_words, sound_texts


def main():
    folder, space = weights_folder(), 'all-MiniLM-L6-v2'
    words.packaged_text_points = dict  # all are computed anew
    points, known = words.SentenceSpace(), packaged_ears().settings.classes
    texts = sorted({*place_words(), *photo_texts(), *sound_texts(name.replace('_', ' ') for name in known)})
    write_tensors(folder / 'text_points.safetensors', {'points': points.prototype(texts)},
                  {'kind': 'text points', 'space': space, 'texts': texts})
    labels = words.label_points(points)
    source = 'ImageNet-1k names and WordNet definitions, as timm has them'
    write_tensors(folder / 'label_points.safetensors', {'points': labels.half()},
                  {'kind': 'label points', 'space': space, 'labels': source})
    print(f'{len(texts)} texts and {len(labels)} labels')


if __name__ == '__main__': main()
